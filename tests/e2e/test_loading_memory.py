"""Loading streams: at its peak a process holds the weights and little more, not the weights twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import Checkpoints, edit_json, write_json

# A wide network of two layers, tied: 302 MB in float32, of which a matrix of the feed-forward is 38 MB.
HIDDEN, INNER, LAYERS, VOCAB = 1536, 6144, 2, 1024
# The same sizes with experts: each has a sixth of the feed-forward, so that all together weigh as much as it.
EXPERTS = 6
LARGEST = HIDDEN * INNER * 4
# What is there beside the weights: the cache (4 blocks), the arena of a step of 16 tokens, row state, staging buffers,
# the rotary table, Python objects. Fixed by the settings below.
REST_BYTES = 12 << 20

# Loads the tiny checkpoint first, so that what is imported and cached on first use is not counted.
SCRIPT = """
import json, sys
import torch
from aphrodite import LLM, SamplingParams

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":")) << 10

tiny, folder = sys.argv[1:]
settings = dict(
    device="cpu", dtype="float32", max_model_len=64, num_blocks=4, max_num_seqs=2, max_num_batched_tokens=16
)
params = SamplingParams(temperature=0, max_tokens=2)
with LLM(tiny, **settings) as llm:
    llm.generate([[3, 4]], params)
before = status("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts over
with LLM(folder, **settings) as llm:
    peak = status("VmHWM")
    (output,) = llm.generate([[3, 4]], params)
print(json.dumps({"before": before, "peak": peak, "tokens": output.outputs[0].token_ids}))
"""


def shapes(form: str) -> Mapping[str, tuple[int, ...]]:
    """Tensors of a network without experts ("dense"), or with each of them alone ("single") or all in one ("fused")."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        found |= {f"{at}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        if form == "dense":
            found |= {f"{at}.mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
            found |= {f"{at}.mlp.down_proj.weight": (HIDDEN, INNER)}
        else:
            found |= {f"{at}.mlp.gate.weight": (EXPERTS, HIDDEN)}
            found |= {f"{at}.self_attn.{name}_norm.weight": (HIDDEN // 12,) for name in "qk"}
        inner = INNER // EXPERTS
        if form == "fused":
            found |= {f"{at}.mlp.experts.gate_up_proj": (EXPERTS, 2 * inner, HIDDEN)}
            found |= {f"{at}.mlp.experts.down_proj": (EXPERTS, HIDDEN, inner)}
        elif form == "single":
            for number in range(EXPERTS):
                expert = f"{at}.mlp.experts.{number}"
                found |= {f"{expert}.{name}_proj.weight": (inner, HIDDEN) for name in ("gate", "up")}
                found |= {f"{expert}.down_proj.weight": (HIDDEN, inner)}
        found |= {f"{at}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return found


def write_checkpoint(folder: Path, dtype: torch.dtype, form: str) -> None:
    """The checkpoint in shards of a few tensors each."""
    torch.manual_seed(0)
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM" if form == "dense" else "Qwen3MoeForCausalLM"],
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "moe_intermediate_size": INNER // EXPERTS,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "dtype": str(dtype).removeprefix("torch."),
    }
    write_json(folder / "config.json", config)
    sizes = shapes(form)
    names = list(sizes)
    parts = [names[start : start + 5] for start in range(0, len(names), 5)]
    index = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file({name: (torch.randn(sizes[name]) * 0.02).to(dtype) for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"weight_map": index})


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("dtype", "form"),
    [(torch.float32, "dense"), (torch.bfloat16, "dense"), (torch.bfloat16, "single"), (torch.bfloat16, "fused")],
    ids=str,
)
def test_peak_of_loading_is_the_weights_and_a_part_of_the_largest_tensor(
    dtype: torch.dtype, form: str, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "wide", dtype, form)
    growth, weights = measure(
        checkpoints.llama(seed=20, num_hidden_layers=1), tmp_path / "wide", f"{form}, {dtype}", form
    )
    assert growth <= weights + 1.15 * LARGEST + REST_BYTES


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("form", ["dense", "single"])
def test_peak_of_loading_modules_is_the_weights_and_what_is_merged_at_a_time(
    form: str, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """Transformers' own loader reads ahead with several threads; the experts of a layer are there twice for a while."""
    write_checkpoint(tmp_path / "wide", torch.bfloat16, form)
    kinds = {"dense": ("granite", "GraniteForCausalLM"), "single": ("flex_olmo", "FlexOlmoForCausalLM")}
    kind, architecture = kinds[form]
    edit_json(
        tmp_path / "wide/config.json",
        lambda data: data.update(
            model_type=kind,
            architectures=[architecture],
            pad_token_id=None,
            intermediate_size=INNER if form == "dense" else INNER // EXPERTS,
        ),
    )
    if form == "single":
        as_flex_olmo(tmp_path / "wide")
    growth, weights = measure(checkpoints.make("granite"), tmp_path / "wide", f"modules, {form}", form)
    merged = 2 * LARGEST if form == "dense" else 4 * LARGEST
    assert growth <= weights + merged + REST_BYTES


def as_flex_olmo(folder: Path) -> None:
    """The norms of heads as an architecture without a page has them: over all heads at once."""
    for path in folder.glob("*.safetensors"):
        data = load_file(path)
        for name in data:
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                data[name] = torch.ones(HIDDEN, dtype=torch.bfloat16)
        data = {name.replace("input_layernorm", "post_feedforward_layernorm"): data[name] for name in data}
        save_file(data, path)
    edit_json(
        folder / "model.safetensors.index.json",
        lambda index: index.update(
            weight_map={
                name.replace("input_layernorm", "post_feedforward_layernorm"): file
                for name, file in index["weight_map"].items()
            }
        ),
    )


def measure(tiny: Path, folder: Path, label: str, form: str) -> tuple[int, int]:
    """How far a process grows at most while it loads a checkpoint, and what its weights weigh in float32."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny), str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    weights = sum(torch.Size(shape).numel() * 4 for shape in shapes(form).values())  # as computed with: float32
    growth = seen["peak"] - seen["before"]
    print(
        f"{label}: grew by {growth / 1e6:.1f} MB for {weights / 1e6:.1f} MB of weights, largest tensor "
        f"{LARGEST / 1e6:.1f} MB: {(growth - weights) / 1e6:.1f} MB above the weights"
    )
    assert len(seen["tokens"]) == 2
    assert weights > 290e6
    assert growth >= 0.95 * weights, "this did not measure the load"
    return growth, weights
