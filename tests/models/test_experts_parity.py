"""Mixtral and Qwen 3 MoE give what Transformers gives, however many experts there are and however they are stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from aphrodite import SamplingParams
from aphrodite.errors import CheckpointError
from aphrodite.weights import load as loading
from tests.support.checkpoints import Checkpoints
from tests.support.engines import engine
from tests.support.parity import check_half_precision, check_parity, check_preempted, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]

THREE = {"num_local_experts": 3}
ODD = {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 10, "hidden_size": 50}
MIXTRAL = {"family": "mixtral", "sliding_window": 11}
QWEN = {"family": "qwen3_moe", "num_hidden_layers": 3, "mlp_only_layers": [1], "norm_topk_prob": True}

CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral": MIXTRAL,
    "mixtral: one expert a token of three": {**MIXTRAL, **THREE, "num_experts_per_tok": 1},
    "mixtral: all of three experts": {**MIXTRAL, **THREE, "num_experts_per_tok": 3, "sliding_window": None},
    "mixtral: a single expert": {"family": "mixtral", "num_local_experts": 1, "num_experts_per_tok": 1},
    "mixtral: each matrix of all experts one tensor": {**MIXTRAL, **THREE, "fused": True, "seed": 3},
    "mixtral: shards, tied, old config": {
        **MIXTRAL,
        "shard_size": "40KB",
        "tie_word_embeddings": True,
        "old_style": "rope_type",
    },
    "mixtral: odd sizes, gelu": {**MIXTRAL, **ODD, "intermediate_size": 37, "hidden_act": "gelu"},
    "qwen 3 moe: dense and sparse layers": QWEN,
    "qwen 3 moe: weights of the chosen not renormalised": {**QWEN, "norm_topk_prob": False},
    "qwen 3 moe: every second layer sparse, published field name": {
        **QWEN,
        "num_hidden_layers": 4,
        "mlp_only_layers": [3],
        "decoder_sparse_step": 2,
        "without": ("num_local_experts",),
        "fields": {"num_experts": 4},
    },
    "qwen 3 moe: all layers dense": {**QWEN, "mlp_only_layers": [0, 1, 2]},
    "qwen 3 moe: eight of sixteen experts, biases, a window, fused": {
        **QWEN,
        "num_local_experts": 16,
        "num_experts_per_tok": 8,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 11,
        "fused": True,
    },
    "qwen 3 moe: odd sizes, tied": {
        **QWEN,
        **ODD,
        **THREE,
        "intermediate_size": 37,
        "moe_intermediate_size": 13,
        "tie_word_embeddings": True,
        "mlp_only_layers": None,
    },
}
SUBJECTS = ("mixtral", "qwen 3 moe: dense and sparse layers")
SEVERAL = (1, 2, 17, 75)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_token_and_log_probability_is_that_of_transformers(
    name: str, device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.make(**CONFIGS[name])
    with engine(folder, device) as llm:
        check_parity(llm, reference(folder), random_prompts(SEVERAL, seed=1), num_tokens=5, label=f"{name}, {device}")


@pytest.mark.parametrize("name", SUBJECTS)
def test_preempted_sequences_compute_the_same_tokens_again(
    name: str, device: str, checkpoints: Checkpoints, reference: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.make(**CONFIGS[name])
    check_preempted(folder, device, reference(folder), monkeypatch, label=name)


# Every token goes to every expert here. With a choice, a token near the border between two goes to another one in
# another type, in Transformers as in the engine, and by chance in one more often than in the other.
EVERY_EXPERT = {
    "mixtral": {**MIXTRAL, **THREE, "num_experts_per_tok": 3},
    "qwen 3 moe": {**QWEN, "num_experts_per_tok": 4},
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.4), ("float16", 0.05)])
@pytest.mark.parametrize("name", EVERY_EXPERT)
def test_half_precision_is_as_near_to_float32_as_transformers_is(
    name: str, dtype: str, tolerance: float, device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.make(**EVERY_EXPERT[name], dtype=dtype, seed=1)
    exact, theirs = reference(folder, "float32"), reference(folder, dtype)
    prompts = random_prompts((1, 17, 60), seed=7)
    with engine(folder, device, dtype=dtype) as llm:
        label = f"{name}, {dtype}, {device}"
        check_half_precision(llm, exact, theirs, prompts, num_tokens=4, tolerance=tolerance, label=label)


def test_the_core_alone_needs_no_plugin(checkpoints: Checkpoints, reference: Load) -> None:
    for name in SUBJECTS:
        folder = checkpoints.make(**CONFIGS[name])
        for form in ("portable", "reference"):
            kernels = {"moe_experts": [form]}
            with engine(folder, "cpu", plugins="none", kernels=kernels) as llm:
                prompts = random_prompts(SEVERAL, seed=9)
                check_parity(llm, reference(folder), prompts, num_tokens=4, label=f"core alone, {name}, {form}")


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def names(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= set(file.keys())
    return found


def test_both_forms_of_checkpoint_are_what_they_are_taken_for(checkpoints: Checkpoints) -> None:
    single = names(checkpoints.make(**CONFIGS["mixtral"]))
    assert {
        "model.layers.1.block_sparse_moe.experts.3.w2.weight",
        "model.layers.0.block_sparse_moe.gate.weight",
    } <= single
    fused = names(checkpoints.make(**CONFIGS["mixtral: each matrix of all experts one tensor"]))
    assert {"model.layers.1.mlp.experts.gate_up_proj", "model.layers.0.mlp.gate.weight"} <= fused
    assert not any("block_sparse_moe" in name for name in fused)
    qwen = names(checkpoints.make(**CONFIGS["qwen 3 moe: dense and sparse layers"]))
    assert {"model.layers.2.mlp.experts.0.up_proj.weight", "model.layers.1.mlp.down_proj.weight"} <= qwen


@pytest.mark.parametrize("chunk_bytes", [1, 3000])
def test_experts_are_the_same_however_their_loading_is_cut(
    chunk_bytes: int, device: str, checkpoints: Checkpoints, reference: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_CHUNK_BYTES", chunk_bytes)
    for name in ("mixtral: odd sizes, gelu", "mixtral: each matrix of all experts one tensor"):
        folder = checkpoints.make(**CONFIGS[name])
        with engine(folder, device) as llm:
            check_parity(llm, reference(folder), random_prompts((17,), seed=2), num_tokens=2, label=name)


def spoiled(folder: Path, to: Path, checkpoints: Checkpoints, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a checkpoint with other tensors."""
    copy = checkpoints.copy(folder, to)
    weights = load_file(copy / "model.safetensors")
    edit(weights)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_an_expert_that_is_missing_or_too_many_is_named(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = checkpoints.make(**CONFIGS["mixtral"])
    gone = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    with pytest.raises(CheckpointError, match=gone):
        engine(spoiled(folder, tmp_path / "gone", checkpoints, lambda weights: weights.pop(gone)), "cpu")
    more = "model.layers.1.block_sparse_moe.experts.4.w3.weight"
    edit = lambda weights: weights.update({more: weights[gone].clone()})  # noqa: E731
    with pytest.raises(CheckpointError, match=more):
        engine(spoiled(folder, tmp_path / "more", checkpoints, edit), "cpu")
    fused = checkpoints.make(**CONFIGS["mixtral: each matrix of all experts one tensor"])
    lost = "model.layers.0.mlp.experts.down_proj"
    with pytest.raises(CheckpointError, match=r"layers\.0\..*experts.* missing"):
        engine(spoiled(fused, tmp_path / "fused", checkpoints, lambda weights: weights.pop(lost)), "cpu")


def test_experts_lie_in_one_stack_a_layer_and_dummy_weights_fill_it(checkpoints: Checkpoints) -> None:
    folder = checkpoints.make(**CONFIGS["qwen 3 moe: dense and sparse layers"])
    with engine(folder, "cpu", load_format="dummy") as llm:
        shapes = {name: p.ref.shape for name, p in llm.blueprint.decoder.parameters.items() if "layers.0.mlp." in name}
        assert shapes == {
            "layers.0.mlp.router.weight": (4, 64),
            "layers.0.mlp.gate_up.weight": (4, 80, 64),
            "layers.0.mlp.down.weight": (4, 64, 40),
        }
        (output,) = llm.generate([[5, 6, 7]], SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))
        assert len(output.outputs[0].token_ids) == 3
