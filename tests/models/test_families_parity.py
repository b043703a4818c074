"""Qwen, Phi-3, StarCoder 2 and Command R give what Transformers gives, in the shapes that configs allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.checkpoints import Checkpoints
from tests.support.engines import cache_groups, engine
from tests.support.parity import check_half_precision, check_parity, check_preempted, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]

WINDOWED = {"use_sliding_window": True, "sliding_window": 11}
FIVE_HEADS = {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 10}
SIX_HEADS = {"hidden_size": 50, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 14}
QWEN2 = {"family": "qwen2", "num_hidden_layers": 3, **WINDOWED, "max_window_layers": 1}
QWEN3 = {"family": "qwen3", "num_hidden_layers": 3, **WINDOWED, "max_window_layers": 2, **SIX_HEADS}
PHI3 = {"family": "phi3", "partial_rotary_factor": 0.75, "sliding_window": 11}
STARCODER2 = {"family": "starcoder2", "sliding_window": 11, "norm_epsilon": 1e-3}
# A scale that leaves the logits as large as those of other families, or an error in them would be hard to see.
COHERE = {"family": "cohere", "use_qk_norm": True, "logit_scale": 0.75, "layer_norm_eps": 1e-3}
COHERE2 = {"family": "cohere2", "num_hidden_layers": 4, "sliding_window": 11, "logit_scale": 0.75}

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen 2: windows in the upper layers": QWEN2,
    "qwen 2: windows switched off": {**QWEN2, "use_sliding_window": False, "fields": {"sliding_window": 11}},
    "qwen 2: windows by layer_types": {
        **QWEN2,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "qwen 2: windows by the older field alone": {**QWEN2, "without": ("layer_types",)},
    "qwen 2: windows from layer 28 on": {**QWEN2, "without": ("layer_types", "max_window_layers")},
    "qwen 2: tied, old config, one key head": {
        "family": "qwen2",
        "tie_word_embeddings": True,
        "num_key_value_heads": 1,
        "old_style": "rope_type",
    },
    "qwen 2: five heads of 10": {"family": "qwen2", "hidden_size": 50, **FIVE_HEADS, "intermediate_size": 37},
    "qwen 3: six heads of 14, windows": QWEN3,
    "qwen 3: biases, tied": {"family": "qwen3", "attention_bias": True, "tie_word_embeddings": True},
    "qwen 3: old config, gelu": {"family": "qwen3", "hidden_act": "gelu", "old_style": "type"},
    "phi 3: a part of each head is rotated": PHI3,
    "phi 3: whole heads, no window": {"family": "phi3", **SIX_HEADS},
    "phi 3: six of ten dimensions, old config, tied": {
        **PHI3,
        **FIVE_HEADS,
        "hidden_size": 50,
        "partial_rotary_factor": 0.6,
        "tie_word_embeddings": True,
        "old_style": "type",
        "fields": {"partial_rotary_factor": 0.6},
    },
    "starcoder 2": STARCODER2,
    "starcoder 2: no biases but those of norms, a head of its own": {
        "family": "starcoder2",
        "use_bias": False,
        "tie_word_embeddings": False,
        "head_dim": 22,
        "num_key_value_heads": 4,
        "hidden_act": "relu",
    },
    "starcoder 2: one key head, gelu, odd sizes": {
        **STARCODER2,
        **FIVE_HEADS,
        "num_key_value_heads": 1,
        "hidden_size": 50,
        "intermediate_size": 37,
        "hidden_act": "gelu",
        "old_style": "rope_type",
    },
    "command r": {**COHERE, "use_qk_norm": False},
    "command r: normalised heads": COHERE,
    "command r: biases, a head of its own, heads of 10": {
        **COHERE,
        **FIVE_HEADS,
        "hidden_size": 50,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "command r: grouped heads, old config, gelu": {
        **COHERE,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 14,
        "hidden_act": "gelu_new",
        "old_style": "rope_type",
    },
    "command r7b: full layers without positions": COHERE2,
    "command r7b: full layers first, biases": {
        **COHERE2,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "attention_bias": True,
    },
    "command r7b: every second layer full, by the older field": {
        **COHERE2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "without": ("layer_types",),
        "fields": {"sliding_window_pattern": 2},
    },
}
SUBJECTS = (
    "qwen 2: windows in the upper layers",
    "qwen 3: six heads of 14, windows",
    "phi 3: a part of each head is rotated",
    "starcoder 2",
    "command r: normalised heads",
    "command r7b: full layers without positions",
)
SEVERAL = (1, 2, 17, 75)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_token_and_log_probability_is_that_of_transformers(
    name: str, device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.make(**CONFIGS[name])
    with engine(folder, device) as llm:
        check_parity(llm, reference(folder), random_prompts(SEVERAL, seed=1), num_tokens=5, label=f"{name}, {device}")


def test_layers_are_grouped_by_their_window(checkpoints: Checkpoints) -> None:
    wanted = {
        "qwen 2: windows in the upper layers": [("full", None, 1), ("sliding", 11, 2)],
        "qwen 2: windows switched off": [("full", None, 3)],
        "qwen 2: windows from layer 28 on": [("full", None, 3)],
        "qwen 3: six heads of 14, windows": [("full", None, 2), ("sliding", 11, 1)],
        "starcoder 2": [("sliding", 11, 2)],
        "command r7b: full layers without positions": [("full", None, 1), ("sliding", 11, 3)],
    }
    for name, groups in wanted.items():
        with engine(checkpoints.make(**CONFIGS[name]), "cpu") as llm:
            assert cache_groups(llm) == groups, name


@pytest.mark.parametrize("name", SUBJECTS)
def test_preempted_sequences_compute_the_same_tokens_again(
    name: str, device: str, checkpoints: Checkpoints, reference: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.make(**CONFIGS[name])
    check_preempted(folder, device, reference(folder), monkeypatch, label=name)


# Largest difference allowed from Transformers computing in the same type, and from float32.
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.4), ("float16", 0.05)])
@pytest.mark.parametrize("name", SUBJECTS)
def test_half_precision_is_as_near_to_float32_as_transformers_is(
    name: str, dtype: str, tolerance: float, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.make(**CONFIGS[name], dtype=dtype, seed=1)
    exact, theirs = reference(folder, "float32"), reference(folder, dtype)
    prompts = random_prompts((1, 17, 60), seed=7)
    with engine(folder, "cpu", dtype=dtype) as llm:
        label = f"{name}, {dtype}"
        check_half_precision(llm, exact, theirs, prompts, num_tokens=4, tolerance=tolerance, label=label)


def test_the_core_alone_needs_no_plugin(unlike_pools: None, checkpoints: Checkpoints, reference: Load) -> None:
    for name in SUBJECTS:
        folder = checkpoints.make(**CONFIGS[name])
        with engine(folder, "cpu", plugins="none") as llm:
            prompts = random_prompts(SEVERAL, seed=9)
            check_parity(llm, reference(folder), prompts, num_tokens=4, label=f"core alone, {name}")
