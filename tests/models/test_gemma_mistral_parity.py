"""Mistral, Gemma 2 and Gemma 3 give what Transformers gives: windows of all sizes, caps, two rope bases, four norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.checkpoints import Checkpoints
from tests.support.engines import cache_groups, engine
from tests.support.parity import check_half_precision, check_parity, check_preempted, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]

# Caps so low that scores and logits feel them, a scale that is not the heads' own, a window that cuts through blocks.
MISTRAL = {"family": "mistral", "sliding_window": 11}
GEMMA2 = {
    "family": "gemma2",
    "num_hidden_layers": 3,
    "sliding_window": 11,
    "query_pre_attn_scalar": 24,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 5.0,
}
GEMMA3 = {
    "family": "gemma3_text",
    "num_hidden_layers": 4,
    "sliding_window": 11,
    "query_pre_attn_scalar": 24,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
}
STRETCHED = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
ONE_KEY_HEAD = {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 12}

CONFIGS: dict[str, dict[str, Any]] = {
    "mistral: a window in every layer": MISTRAL,
    "mistral: a window of one block": {**MISTRAL, "sliding_window": 16},
    "mistral: a window of several blocks": {**MISTRAL, "sliding_window": 48},
    "mistral: a token sees itself and one more": {**MISTRAL, "sliding_window": 2},
    "mistral: a token sees itself alone": {**MISTRAL, "sliding_window": 1},
    "mistral: a window larger than all": {**MISTRAL, "sliding_window": 4096},
    "mistral: no window": {**MISTRAL, "sliding_window": None},
    "mistral: config without a window": {**MISTRAL, "sliding_window": 4096, "without": ("sliding_window",)},
    "mistral: old config, tied, heads of 20": {
        **MISTRAL,
        "head_dim": 20,
        "tie_word_embeddings": True,
        "old_style": "rope_type",
    },
    "mistral: positions stretched alike": {
        **MISTRAL,
        "sliding_window": 30,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0},
    },
    "gemma 2": GEMMA2,
    "gemma 2: its own window and caps, too large to be felt": {
        "family": "gemma2",
        "without": ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"),
    },
    "gemma 2: no caps": {**GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    "gemma 2: full layers first": {**GEMMA2, "layer_types": ["full_attention", "full_attention", "sliding_attention"]},
    "gemma 2: sliding layers alone": {**GEMMA2, "layer_types": ["sliding_attention"] * 3},
    "gemma 2: full layers alone, and a window for none": {**GEMMA2, "layer_types": ["full_attention"] * 3},
    "gemma 2: biases, a head of its own": {**GEMMA2, "attention_bias": True, "tie_word_embeddings": False},
    "gemma 2: one key head": {**GEMMA2, **ONE_KEY_HEAD},
    "gemma 2: old config": {**GEMMA2, "old_style": "rope_type", "without": ("layer_types",)},
    "gemma 3": GEMMA3,
    "gemma 3: full layers stretched": {**GEMMA3, "rope_parameters": STRETCHED},
    "gemma 3: capped logits": {**GEMMA3, "final_logit_softcapping": 5.0},
    "gemma 3: full layers alone, and a window for none": {**GEMMA3, "layer_types": ["full_attention"] * 4},
    "gemma 3: one key head, biases, a head of its own": {
        **GEMMA3,
        **ONE_KEY_HEAD,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "gemma 3: every sixth layer full": {
        "family": "gemma3_text",
        "num_hidden_layers": 7,
        "sliding_window": 11,
        "query_pre_attn_scalar": 24,
        "without": ("layer_types", "_sliding_window_pattern", "rope_parameters"),
    },
    "gemma 3: old config, stretched": {
        **GEMMA3,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": STRETCHED,
        "old_style": "rope_type",
        "without": ("layer_types", "_sliding_window_pattern"),
        "fields": {"sliding_window_pattern": 2},
    },
}
SUBJECTS = ("mistral: a window in every layer", "gemma 2", "gemma 3: full layers stretched")
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
        "mistral: no window": [("full", None, 2)],
        "mistral: a window in every layer": [("sliding", 11, 2)],
        "gemma 2": [("full", None, 1), ("sliding", 11, 2)],
        "gemma 3": [("full", None, 1), ("sliding", 11, 3)],
    }
    for name, groups in wanted.items():
        with engine(checkpoints.make(**CONFIGS[name]), "cpu") as llm:
            assert cache_groups(llm) == groups, name


CUTS: dict[str, dict[str, Any]] = {
    "one step holds everything": {"max_num_batched_tokens": 1024},
    "chunks of 7": {"max_num_batched_tokens": 7, "max_num_seqs": 5},
    "a cache that holds one long prompt": {"max_model_len": 96, "cache_tokens": 96, "max_num_batched_tokens": 64},
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", SUBJECTS)
def test_mixed_batch_is_right_however_it_is_cut(
    name: str, cut: str, device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.make(**CONFIGS[name])
    with engine(folder, device, **CUTS[cut]) as llm:
        prompts = random_prompts((1, 3, 10, 11, 12, 33, 90), seed=2)
        check_parity(llm, reference(folder), prompts, num_tokens=4, label=f"{name}, {cut}, {device}")


@pytest.mark.parametrize("name", SUBJECTS)
def test_preempted_sequences_compute_the_same_tokens_again(
    name: str, device: str, checkpoints: Checkpoints, reference: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.make(**CONFIGS[name])
    check_preempted(folder, device, reference(folder), monkeypatch, label=name)


@pytest.mark.parametrize("name", SUBJECTS[1:])
def test_each_group_has_its_own_block_table(
    name: str, device: str, unlike_pools: None, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.make(**CONFIGS[name])
    with engine(folder, device) as llm:
        check_parity(llm, reference(folder), random_prompts(SEVERAL, seed=5), label=f"unlike pools, {name}, {device}")


# Largest difference allowed from Transformers computing in the same type.
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.4), ("float16", 0.05)])
@pytest.mark.parametrize("name", SUBJECTS)
def test_half_precision_is_as_near_to_float32_as_transformers_is(
    name: str, dtype: str, tolerance: float, device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.make(**CONFIGS[name], dtype=dtype, seed=1)
    exact, theirs = reference(folder, "float32"), reference(folder, dtype)
    prompts = random_prompts(SEVERAL, seed=7)
    with engine(folder, device, dtype=dtype) as llm:
        check_half_precision(llm, exact, theirs, prompts, tolerance=tolerance, label=f"{name}, {dtype}, {device}")


def test_the_core_alone_needs_no_plugin(checkpoints: Checkpoints, reference: Load) -> None:
    for name in SUBJECTS:
        folder = checkpoints.make(**CONFIGS[name])
        with engine(folder, "cpu", plugins="none") as llm:
            check_parity(llm, reference(folder), random_prompts(SEVERAL, seed=9), label=f"core alone, {name}")
