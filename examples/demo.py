"""Make a tiny checkpoint with random weights and continue a prompt with it, end to end.

Run it with `nox -s demo`, or `python examples/demo.py` where the packages are installed. The model knows nothing, so
the text is random; what it shows is a real Hugging Face folder (config, safetensors, tokenizer) going through the
engine.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from aphrodite import LLM, SamplingParams

PROMPT = "The engine starts, and"
TEXT = (Path(__file__).parent.parent / "README.md", Path(__file__))  # something to learn a vocabulary from


def main() -> None:
    """Make, load, generate, print."""
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(Path(folder))
        with LLM(folder, max_num_seqs=4) as llm:
            device = llm.blueprint.entry
            output = llm.generate(PROMPT, SamplingParams(temperature=0.8, seed=1, max_tokens=24))[0]
    print("A tiny Llama with random weights: the text below is random too, and that is as it should be.")
    print(f"device  {device.info.device} ({device.info.name}), served by the {device.plugin} plugin")
    print(f"prompt  {PROMPT}")
    print(f"text    {output.outputs[0].text!r}")
    print("next    aphrodite generate YOUR_MODEL_FOLDER --prompt 'Once upon a time'")


def make_checkpoint(folder: Path) -> None:
    """Write config.json, tokenizer.json and model.safetensors."""
    vocab_size = make_tokenizer(folder / "tokenizer.json")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    save_file(random_weights(config), folder / "model.safetensors")


def make_tokenizer(path: Path) -> int:
    """Train a byte-level BPE on this project's own words; returns the size of its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([file.read_text() for file in TEXT if file.is_file()], trainer)
    tokenizer.save(str(path))
    return int(tokenizer.get_vocab_size())


def random_weights(config: dict[str, object]) -> dict[str, torch.Tensor]:
    """Seeded weights under the names of a Llama checkpoint."""
    generator = torch.Generator().manual_seed(0)
    sizes = {name: value for name, value in config.items() if isinstance(value, int)}
    hidden, inner, dim = sizes["hidden_size"], sizes["intermediate_size"], sizes["head_dim"]
    heads, kv_heads = sizes["num_attention_heads"] * dim, sizes["num_key_value_heads"] * dim

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * columns**-0.5

    weights = {
        "model.embed_tokens.weight": matrix(sizes["vocab_size"], hidden),
        "model.norm.weight": torch.ones(hidden),
    }
    for layer in range(sizes["num_hidden_layers"]):
        shapes = {
            "self_attn.q_proj": (heads, hidden),
            "self_attn.k_proj": (kv_heads, hidden),
            "self_attn.v_proj": (kv_heads, hidden),
            "self_attn.o_proj": (hidden, heads),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        prefix = f"model.layers.{layer}"
        weights |= {f"{prefix}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{norm}.weight"] = torch.ones(hidden)
    return weights


if __name__ == "__main__":
    main()
