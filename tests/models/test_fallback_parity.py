"""Architectures without a page give what Transformers gives: its own modules, over our paged attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from aphrodite.models.fallback import network, run
from aphrodite.models.fallback.network import ModuleNetwork
from aphrodite.models.fallback.probe import AttentionCall
from tests.support.checkpoints import WITHOUT_A_PAGE, Checkpoints
from tests.support.engines import engine, watch_preemption
from tests.support.parity import ParityError, check_half_precision, check_parity, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]

BOTH = ["sliding_attention", "full_attention"]
WINDOWS = {"num_hidden_layers": 4, "layer_types": BOTH * 2, "sliding_window": 11}
CONFIGS: dict[str, dict[str, Any]] = {
    **{name: {"family": name} for name in WITHOUT_A_PAGE},
    "exaone4": {"family": "exaone4", **WINDOWS},  # full layers have no positions
    "gpt_neox: in turn, untied, odd heads": {
        "family": "gpt_neox",
        "use_parallel_residual": False,
        "hidden_size": 60,
        "num_attention_heads": 5,
        "rotary_pct": 0.5,
    },
    "gpt_oss": {"family": "gpt_oss", **WINDOWS},  # sinks
    "granite: biases, yarn": {
        "family": "granite",
        "attention_bias": True,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "helium: llama3": {
        "family": "helium",
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "ministral": {"family": "ministral", **WINDOWS},
    "olmo3": {"family": "olmo3", **WINDOWS},
    "smollm3": {"family": "smollm3", "num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0]},
    "smollm3: windows": {"family": "smollm3", **WINDOWS, "use_sliding_window": True, "no_rope_layers": [1, 1, 0, 1]},
    "stablelm: side by side, normalised heads": {
        "family": "stablelm",
        "use_parallel_residual": True,
        "qk_layernorm": True,
        "use_qkv_bias": True,
    },
    "vaultgemma": {"family": "vaultgemma", **WINDOWS},  # soft caps
}
SUBJECTS = ("gpt2", "smollm3: windows", "gpt_oss", "granitemoe", "deepseek_v3")
SEVERAL = (1, 2, 17, 75)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_token_and_log_probability_is_that_of_transformers(
    name: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.make(**CONFIGS[name])
    with engine(folder, "cpu") as llm:
        assert isinstance(llm.blueprint.decoder, ModuleNetwork)
        check_parity(llm, reference(folder), random_prompts(SEVERAL, seed=1), num_tokens=5, label=name)


def test_layers_are_grouped_by_the_window_of_their_mask(checkpoints: Checkpoints) -> None:
    wanted = {
        "gpt2": [("full", None, 2)],
        "exaone4": [("full", None, 2), ("sliding", 11, 2)],
        "gpt_oss": [("full", None, 2), ("sliding", 11, 2)],
        "smollm3: windows": [("full", None, 2), ("sliding", 11, 2)],
    }
    for name, groups in wanted.items():
        with engine(checkpoints.make(**CONFIGS[name]), "cpu") as llm:
            found = [(group.kind, group.window, len(group.layers)) for group in llm.blueprint.sizes.kv.groups]
        assert found == groups, name


@pytest.mark.parametrize("name", SUBJECTS)
def test_preempted_sequences_compute_the_same_tokens_again(
    name: str, checkpoints: Checkpoints, reference: Load, unlike_pools: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    preempted = watch_preemption(monkeypatch)
    folder = checkpoints.make(**CONFIGS[name])
    prompts = random_prompts((15, 16, 1, 30, 13, 31), seed=4)
    settings = {"max_model_len": 64, "cache_tokens": 64, "max_num_batched_tokens": 24}
    with engine(folder, "cpu", **settings) as llm:
        check_parity(llm, reference(folder), prompts, num_tokens=12, label=f"{name}, preemption")
    assert any(drawn > 0 for drawn in preempted), "the cache was not small enough to preempt a decoding sequence"


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_core_alone_serves_them(name: str, checkpoints: Checkpoints, reference: Load, unlike_pools: None) -> None:
    folder = checkpoints.make(**CONFIGS[name])
    with engine(folder, "cpu", plugins="none") as llm:
        check_parity(llm, reference(folder), random_prompts(SEVERAL, seed=9), num_tokens=4, label=f"core alone, {name}")


# Largest difference allowed from Transformers computing in the same type, and from float32.
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.4), ("float16", 0.05)])
@pytest.mark.parametrize("name", ["gpt2", "smollm3: windows"])
def test_half_precision_is_as_near_to_float32_as_transformers_is(
    name: str, dtype: str, tolerance: float, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.make(**CONFIGS[name], dtype=dtype, seed=1)
    exact, theirs = reference(folder, "float32"), reference(folder, dtype)
    prompts = random_prompts((1, 17, 60), seed=7)
    with engine(folder, "cpu", dtype=dtype) as llm:
        check_half_precision(llm, exact, theirs, prompts, num_tokens=4, tolerance=tolerance, label=f"{name}, {dtype}")


MISTAKES: dict[str, tuple[str, Callable[[AttentionCall], dict[str, Any]]]] = {
    "another scale": ("granite", lambda call: {"scale": call.scale * 1.02}),
    "a window too long by one": ("olmo3", lambda call: {"window": call.window and call.window + 1}),
    "no window": ("ministral", lambda call: {"window": 0}),
    "no soft cap": ("vaultgemma", lambda call: {"softcap": 0.0}),
    "no sinks": ("gpt_oss", lambda call: {"sinks": False}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_what_was_read_is_seen(
    mistake: str, checkpoints: Checkpoints, reference: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above would not pass over an attention that is not quite the modules' own."""
    name, change = MISTAKES[mistake]

    def changed(self: ModuleNetwork, spec: Any, dtype: str) -> None:
        calls = tuple(dataclasses.replace(call, **change(call)) for call in spec.probed.calls)
        original(self, dataclasses.replace(spec, probed=dataclasses.replace(spec.probed, calls=calls)), dtype)

    original = ModuleNetwork.__init__
    monkeypatch.setattr(network.ModuleNetwork, "__init__", changed)
    monkeypatch.setattr(run, "_fits", lambda *args: True)  # which would see some of it before
    folder = checkpoints.make(**CONFIGS[name])
    with engine(folder, "cpu") as llm, pytest.raises(ParityError):
        check_parity(llm, reference(folder), random_prompts(SEVERAL, seed=1), num_tokens=5, label=mistake)
