"""The parity test is worth something: small mistakes of the usual kinds each break it.

Every mutation is one that a wrong model page, layer, kernel or scheduler could make. They run on the core's own
platform, so that it is certain which form of an operation is mutated.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aphrodite import LLM
from aphrodite.errors import CheckpointError
from aphrodite.sched.plan import StepPlan
from tests.support.checkpoints import Checkpoints
from tests.support.mutations import Patch, attention, calls, network
from tests.support.parity import ParityError, check_parity, compare_forced, compare_greedy, random_prompts
from tests.support.reference import Reference

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Small embeddings, so that the first norm feels an epsilon of 1e-6 in place of 1e-5.
CONFIG: dict[str, Any] = {
    "rope_parameters": LLAMA3,
    "embedding_scale": 0.1,
    "attention_bias": True,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}


def run(folder: Path, reference: Reference) -> None:
    with LLM(
        str(folder),
        device="cpu",
        plugins="none",
        dtype="float32",
        max_model_len=400,
        num_blocks=96,
        max_num_batched_tokens=33,
    ) as llm:
        check_parity(llm, reference, random_prompts((1, 2, 17, 40, 131), seed=1))


def form(patch: Patch, module: str, op: str, after: Callable[[dict[str, Any]], None]) -> None:
    """Do something more after every run of an operation's torch form; it gets the arguments by name."""
    owner = importlib.import_module(module)
    original = getattr(owner, op)
    names = [arg.name for arg in original.schema.args] + [attr.name for attr in original.schema.attrs]

    def mutated(*args: Any, **kwargs: Any) -> None:
        given = dict(zip(names, args, strict=False)) | kwargs
        original.reference(**given)
        after(given)

    mutated.__signature__ = inspect.signature(original.reference)  # type: ignore[attr-defined]
    patch.setattr(owner, op, dataclasses.replace(original, reference=mutated, portable=None))


def rope_style(patch: Patch) -> None:
    calls(patch, "rope@1", style=lambda _: "gptj")


def rope_theta(patch: Patch) -> None:
    attention(patch, lambda _, a: {"rope": dataclasses.replace(a.rope, theta=10000.0)})


def rope_scaling_ignored(patch: Patch) -> None:
    attention(patch, lambda _, a: {"rope": dataclasses.replace(a.rope, scaling=None)})


def epsilon(patch: Patch) -> None:
    network(patch, norm_eps=1e-6)


def attention_scale(patch: Patch) -> None:
    calls(patch, "attn_paged@1", scale=lambda scale: scale * 1.01)


def norm_offset(patch: Patch) -> None:
    calls(patch, "rms_norm@1", offset=lambda _: 1)


def activation(patch: Patch) -> None:
    calls(patch, "act_mul@1", kind=lambda _: "gelu_tanh")


def bias_forgotten(patch: Patch) -> None:
    calls(patch, "linear@1", bias=lambda _: None)


def second_chunk_one_position_on(patch: Patch) -> None:
    def after(given: dict[str, Any]) -> None:
        positions = given["positions"]
        started = given["seq_lens"] - given["num_new"] > 0
        seq = torch.searchsorted(
            given["cu_q"][1:].contiguous(), torch.arange(len(positions), dtype=torch.int32), right=True
        )
        positions += started[seq.clamp(max=len(started) - 1)].long()

    form(patch, "aphrodite.ops.rows", "step_inputs", after)


def chunk_counted_one_short(patch: Patch) -> None:
    def after(given: dict[str, Any]) -> None:
        rows, seq_rows, num_new = given["rows"], given["seq_rows"], given["num_new"]
        rows.view("num_computed")[seq_rows.long()] -= (num_new > 1).int()

    form(patch, "aphrodite.ops.rows", "commit_rows", after)


def context_one_short(patch: Patch) -> None:
    def after(given: dict[str, Any]) -> None:
        given["seq_lens"] -= (given["num_new"] == 1).int() * (given["seq_lens"] > 1).int()

    form(patch, "aphrodite.ops.rows", "step_inputs", after)


def slots_one_on(patch: Patch) -> None:
    def after(given: dict[str, Any]) -> None:
        given["slots"][given["positions"] == 20] += 1

    form(patch, "aphrodite.ops.rows", "step_slots", after)


def logits_one_token_early(patch: Patch) -> None:
    def after(given: dict[str, Any]) -> None:
        given["logit_rows"].sub_(1).clamp_(min=0)

    form(patch, "aphrodite.ops.rows", "step_inputs", after)


def resumed_from_the_second_token(patch: Patch) -> None:
    original = StepPlan.add_row

    def add_row(self: StepPlan, seq: Any) -> None:
        original(self, seq)
        new = self._new_rows[-1]
        self._new_rows[-1] = dataclasses.replace(new, num_computed=min(1, len(new.tokens) - 1))

    patch.setattr(StepPlan, "add_row", add_row)


MUTATIONS = (
    rope_style,
    rope_theta,
    rope_scaling_ignored,
    epsilon,
    attention_scale,
    norm_offset,
    activation,
    bias_forgotten,
    second_chunk_one_position_on,
    chunk_counted_one_short,
    context_one_short,
    slots_one_on,
    logits_one_token_early,
    resumed_from_the_second_token,
)


@pytest.fixture(scope="module")
def subject(checkpoints: Checkpoints) -> tuple[Path, Reference]:
    folder = checkpoints.llama(**CONFIG)
    return folder, Reference(folder)


def test_nothing_changed_passes(subject: tuple[Path, Reference]) -> None:
    run(*subject)


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_mutation_breaks_parity(
    mutate: Callable[[Patch], None], subject: tuple[Path, Reference], monkeypatch: Patch
) -> None:
    mutate(monkeypatch)
    with pytest.raises(ParityError) as caught:
        run(*subject)
    print(caught.value)


def test_head_read_as_tied_is_refused_or_breaks_parity(subject: tuple[Path, Reference], monkeypatch: Patch) -> None:
    network(monkeypatch, tied=True)
    with pytest.raises((ParityError, CheckpointError)) as caught:
        run(*subject)
    print(caught.value)


def test_epsilon_of_a_norm_that_is_never_small_is_found_too(checkpoints: Checkpoints, monkeypatch: Patch) -> None:
    folder = checkpoints.llama(rms_norm_eps=1e-3)
    network(monkeypatch, norm_eps=2e-3)
    with pytest.raises(ParityError):
        run(folder, Reference(folder))


@pytest.mark.parametrize("compare", [compare_greedy, compare_forced])
def test_each_half_of_the_comparison_finds_a_mistake_alone(
    compare: Callable[..., Any], subject: tuple[Path, Reference], monkeypatch: Patch
) -> None:
    rope_style(monkeypatch)
    folder, reference = subject
    llm = LLM(str(folder), device="cpu", plugins="none", dtype="float32", num_blocks=32)
    with llm, pytest.raises(ParityError):
        compare(llm, reference, random_prompts((40,), seed=1), 8)
