"""Every decoder that the installed Transformers has, made tiny and compared with it, pages set aside.

    python -m tests.support.sweep [--variant] [model_type ...]

--variant mixes windows, flips ties, biases and norms, and scales rotary positions. Prints a line for each kind
of config: equal (largest difference of log-probabilities), WRONG, refused (why), or that a tiny one could not be made.
Run by hand: it takes some minutes.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from aphrodite import LLM, SamplingParams
from aphrodite.errors import AphroditeError
from aphrodite.models import registry

TOLERANCE = 1e-4
NUM_TOKENS = 8
# Fields that a config may have, under all the names that are in use, and sizes that fit each other.
SIZES: Mapping[int, str] = {
    320: "vocab_size vocab_size_per_layer_input",
    256: "max_position_embeddings n_positions max_seq_len n_ctx seq_length max_target_positions max_sequence_length",
    96: "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size d_inner dim_ff dff "
    "mlp_hidden_size dense_intermediate_size",
    64: "hidden_size d_model n_embd dim n_embed embed_dim emb_dim word_embed_proj_dim embedding_size lru_width "
    "input_embedding_size",
    40: "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size "
    "moe_shared_expert_intermediate_size",
    32: "mamba_d_head",
    24: "q_lora_rank qk_head_dim",
    16: "head_dim kv_channels kv_lora_rank qk_nope_head_dim v_head_dim mamba_head_dim attention_head_dim "
    "router_intermediate_size",
    8: "qk_rope_head_dim rotary_dim mamba_d_state hidden_size_per_layer_input",
    7: "sliding_window window_size attention_window_size local_window_size",
    4: "num_hidden_layers n_layer n_layers num_layers decoder_layers num_attention_heads n_head n_heads num_heads "
    "decoder_attention_heads encoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts "
    "mamba_num_heads mamba_n_heads",
    2: "num_key_value_heads encoder_layers num_experts_per_tok moe_k moe_topk n_group eos_token_id type_vocab_size "
    "num_query_groups num_kv_heads",
    1: "bos_token_id n_shared_experts topk_group first_k_dense_replace moe_num_shared_experts num_dense_layers "
    "mamba_n_groups",
    0: "pad_token_id",
}
BOTH = ["sliding_attention", "full_attention"] * 2
OWN: tuple[tuple[str, dict[str, Any]], ...] = (  # what some kinds of config want besides
    ("axk1 deepseek_v2 deepseek_v3 dots3_note dots3_note_text glm4_moe_lite longcat_flash", {"num_key_value_heads": 4}),
    ("minicpm3 sarvam_mla youtu", {"num_key_value_heads": 4}),
    ("axk1 deepseek_v3 longcat_flash youtu", {"head_dim": 8}),
    ("hunyuan_v1_dense hunyuan_v1_moe ministral", {"head_dim": 16}),
    ("gemma3n_text laguna mellum", {"layer_types": BOTH}),
    ("lfm2 lfm2_moe", {"layer_types": ["conv", "full_attention"] * 2}),
    ("bert bert-generation camembert data2vec-text electra ernie megatron-bert rembert", {"is_decoder": True}),
    ("roberta roberta-prelayernorm roc_bert xlm-roberta xlm-roberta-xl xmod", {"is_decoder": True}),
    ("dbrx", {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}}),
    ("dbrx", {"ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 4, "moe_top_k": 2}}),
    ("falcon_h1", {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16}),
    ("gemma3n_text", {"num_kv_shared_layers": 0}),
    # Their default scale of scores, 1, leaves Transformers itself 1e-4 from float64.
    ("granite granite_swa granitemoe granitemoe_swa granitemoeshared", {"attention_multiplier": 0.25}),
    ("gpt_neo", {"attention_types": [[["global", "local"], 2]]}),
    ("mamba2", {"num_heads": 8, "head_dim": 16}),
    ("minimax_m3_vl_text", {"layer_types": ["minimax_m3_sparse", "full_attention"] * 2}),
    ("xmod", {"default_language": "en_XX"}),
    ("zaya", {"num_experts_per_tok": 1}),
)
OLD = {"original_max_position_embeddings": 64}
ROPES = (
    {"rope_type": "yarn", "factor": 4.0, **OLD},
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **OLD},
    {"rope_type": "dynamic", "factor": 2.0},
)
FLIPPED = """attention_bias mlp_bias norm_topk_prob parallel_attn qk_layernorm qkv_bias tie_word_embeddings use_bias
use_parallel_residual use_qk_norm use_qkv_bias"""


def sizes(config: Any) -> dict[str, Any]:
    """Small values for the fields that this config has."""
    fields, names = config.to_dict(), getattr(config, "attribute_map", {})
    found = {name: size for size, listed in SIZES.items() for name in listed.split() if name in fields or name in names}
    kept = {name for name in ("q_lora_rank", "head_dim", "n_inner") if name in fields and fields[name] is None}
    twice = {name for name, of in names.items() if of in found}
    return {name: size for name, size in found.items() if name not in kept | twice}


def tiny(kind: str, fields: Mapping[str, Any]) -> Any:
    """A config of a kind with these fields over small sizes."""
    cls = CONFIG_MAPPING[kind]
    base = cls()
    parts = {name: getattr(base, name, None) for name in cls.sub_configs}
    inner = {name: sizes(part) for name, part in parts.items() if part is not None}
    own = {name: value for kinds, more in OWN if kind in kinds.split() for name, value in more.items()}
    return cls(**{**sizes(base), **inner, **own, **fields})


def variant(kind: str, number: int) -> dict[str, Any]:
    """Fields that make another network of the same kind."""
    fields = tiny(kind, {}).to_dict()
    changed: dict[str, Any] = {name: not fields[name] for name in FLIPPED.split() if isinstance(fields.get(name), bool)}
    kinds, rope = fields.get("layer_types"), fields.get("rope_parameters")
    if isinstance(kinds, list) and set(kinds) <= set(BOTH):
        changed["layer_types"] = [BOTH[1], BOTH[0], BOTH[0], BOTH[1]]
    if isinstance(rope, dict) and "rope_theta" in rope:
        changed["rope_parameters"] = {**rope, **ROPES[number % len(ROPES)]}
    others = {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 13}
    return changed | {name: value for name, value in others.items() if name in fields}


def write(folder: Path, name: str, config: Any) -> None:
    """A checkpoint whose weights hide no mistake (tests/support/checkpoints.py says why)."""
    model = getattr(transformers, name)(config).eval().float()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if path.endswith("bias") or not parameter.abs().sum():
                parameter.copy_(0.3 * noise)
            elif parameter.dim() < 2:
                parameter.mul_(1 + 0.3 * noise)
            else:
                parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"architectures": [name], **data}))


def largest_difference(folder: Path, name: str) -> float:
    """Of all log-probabilities of prompts and what is generated from them, cut into chunks and preempted."""
    draw = random.Random(5)
    prompts = [[draw.randrange(3, 300) for _ in range(length)] for length in (1, 5, 33, 75, 120)]
    settings: dict[str, Any] = {"dtype": "float32", "device": "cpu", "max_model_len": 160, "max_num_batched_tokens": 50}
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=3, prompt_logprobs=3)
    with LLM(str(folder), num_blocks=11, **settings) as llm:
        outputs = llm.generate(prompts, params)
    truth = getattr(transformers, name).from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    worst = 0.0
    for prompt, output in zip(prompts, outputs, strict=True):
        (one,) = output.outputs
        text = [*prompt, *one.token_ids]
        with torch.inference_mode():
            rows = truth(input_ids=torch.tensor([text]), use_cache=False).logits[0].double().log_softmax(-1)
        entries = [*(output.prompt_logprobs or [])[1:], *(one.logprobs or [])]
        assert len(entries) == len(text) - 1
        for row, entry in zip(rows, entries, strict=False):
            worst = max([worst, *(abs(found.logprob - row[token].item()) for token, found in (entry or {}).items())])
        for place, token in enumerate(one.token_ids, start=len(prompt) - 1):
            assert rows[place].max() - rows[place, token] < TOLERANCE, f"token {place + 1} is another"
    return worst


def verdict(kind: str, name: str, number: int, varied: bool) -> tuple[str, str]:
    """What comes of one kind of config, in a word and in a line."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        try:
            write(folder, name, tiny(kind, variant(kind, number) if varied else {}))
        except Exception as error:
            return "not made", f"{type(error).__name__}: {error}"
        try:
            worst = largest_difference(folder, name)
        except AphroditeError as error:
            return "refused", str(error).partition(" need ")[2] or str(error)
        except AssertionError as error:
            return "WRONG", str(error)
        return ("equal" if worst <= TOLERANCE else "WRONG"), f"{worst:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="store_true")
    parser.add_argument("kinds", nargs="*", metavar="model_type")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    registry.FAMILIES.clear()
    counts: collections.Counter[str] = collections.Counter()
    for number, (kind, listed) in enumerate(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()):
        if args.kinds and kind not in args.kinds:
            continue
        name = listed if isinstance(listed, str) else listed[0]
        word, line = verdict(kind, name, number, args.variant)
        counts[word] += 1
        print(f"{word:9} {kind:24} {name:36} {' '.join(line.split())[:160]}", flush=True)
    print(f"Transformers {transformers.__version__}: {dict(counts)}")


if __name__ == "__main__":
    main()
