"""The parity test of windows, caps, bases and norms is worth something: each of them read or done wrong breaks it.

The network is mutated as the family page describes it, so one mistake a test. They run on the core's own platform.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from aphrodite import LLM
from aphrodite.layers.attention import Attention, GroupInputs
from aphrodite.layers.norm import RMSNorm
from aphrodite.program.values import Value
from tests.models.test_gemma_mistral_parity import GEMMA2, GEMMA3, MISTRAL, STRETCHED
from tests.support.checkpoints import Checkpoints
from tests.support.mutations import Patch, attention, calls, network
from tests.support.parity import ParityError, check_parity, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]
SUBJECTS: dict[str, dict[str, Any]] = {
    "mistral": MISTRAL,
    "gemma2": GEMMA2,
    "gemma3": {**GEMMA3, "rope_parameters": STRETCHED},
}


def run(name: str, checkpoints: Checkpoints, reference: Load) -> None:
    folder = checkpoints.make(**SUBJECTS[name])
    settings: dict[str, Any] = {"num_blocks": 40, "max_num_batched_tokens": 33, "max_model_len": 200}
    with LLM(str(folder), device="cpu", plugins="none", dtype="float32", **settings) as llm:
        check_parity(llm, reference(folder), random_prompts((1, 2, 17, 40), seed=1), num_tokens=4)


def window_one_more(patch: Patch) -> None:
    attention(patch, lambda _, a: {"window": a.window + 1 if a.window else 0})


def window_one_less(patch: Patch) -> None:
    attention(patch, lambda _, a: {"window": a.window - 1 if a.window else 0})


def window_in_one_layer_too_few(patch: Patch) -> None:
    attention(patch, lambda number, a: {"window": a.window if number else 0})


def window_in_every_layer(patch: Patch) -> None:
    attention(patch, lambda _, a: {"window": 11})


def attention_softcap_dropped(patch: Patch) -> None:
    attention(patch, lambda _, a: {"softcap": 0.0})


def logit_softcap_dropped(patch: Patch) -> None:
    network(patch, logit_softcap=0.0)


def scale_of_the_head_size(patch: Patch) -> None:
    attention(patch, lambda _, a: {"scale": a.head_dim**-0.5})


def base_of_the_other_kind_of_layer(patch: Patch) -> None:
    attention(patch, lambda _, a: {"rope": dataclasses.replace(a.rope, theta=1e4)})


def positions_not_stretched(patch: Patch) -> None:
    attention(patch, lambda _, a: {"rope": dataclasses.replace(a.rope, scaling=None)})


def norm_offset_dropped(patch: Patch) -> None:
    network(patch, norm_offset=0)


def embedding_scale_dropped(patch: Patch) -> None:
    network(patch, embedding_scale=1.0)


def epsilon(patch: Patch) -> None:
    network(patch, norm_eps=1e-3)


def post_norms_forgotten(patch: Patch) -> None:
    patch.setattr(RMSNorm, "in_place", lambda self, t, x: x)


def qk_norm_forgotten(patch: Patch) -> None:
    patch.setattr(RMSNorm, "each_head", lambda self, t, x: None)


def q_norm_and_k_norm_exchanged(patch: Patch) -> None:
    original = Attention.__call__

    def call(self: Attention, *args: Any) -> Any:
        assert self.norms is not None
        return original(dataclasses.replace(self, norms=(self.norms[1], self.norms[0])), *args)

    patch.setattr(Attention, "__call__", call)


def gelu_of_the_error_function(patch: Patch) -> None:
    calls(patch, "act_mul@1", kind=lambda _: "gelu_erf")


def slots_of_another_group(patch: Patch) -> None:
    first: list[Value] = []

    def inputs(slots: Value, tables: Value, meta: Value) -> GroupInputs:
        first.append(slots)
        return GroupInputs(first[0], tables, meta)

    patch.setattr("aphrodite.models.decoder.GroupInputs", inputs)


_WINDOWS = (window_one_more, window_one_less, window_in_one_layer_too_few)
_GEMMA = (
    window_in_every_layer,
    scale_of_the_head_size,
    norm_offset_dropped,
    embedding_scale_dropped,
    epsilon,
    post_norms_forgotten,
    gelu_of_the_error_function,
    slots_of_another_group,
)
_GEMMA2 = (attention_softcap_dropped, logit_softcap_dropped)
_GEMMA3 = (
    base_of_the_other_kind_of_layer,
    positions_not_stretched,
    qk_norm_forgotten,
    q_norm_and_k_norm_exchanged,
)
MUTATIONS = {"mistral": _WINDOWS, "gemma2": _WINDOWS + _GEMMA + _GEMMA2, "gemma3": _WINDOWS + _GEMMA + _GEMMA3}


@pytest.mark.parametrize("name", SUBJECTS)
def test_nothing_changed_passes(name: str, unlike_pools: None, checkpoints: Checkpoints, reference: Load) -> None:
    run(name, checkpoints, reference)


@pytest.mark.parametrize(
    ("name", "mutate"),
    [(name, one) for name, some in MUTATIONS.items() for one in some],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_mutation_breaks_parity(
    name: str,
    mutate: Callable[[Patch], None],
    unlike_pools: None,
    checkpoints: Checkpoints,
    reference: Load,
    monkeypatch: Patch,
) -> None:
    mutate(monkeypatch)
    with pytest.raises(ParityError) as caught:
        run(name, checkpoints, reference)
    print(caught.value)
