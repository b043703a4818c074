"""Comparing the engine with Transformers: greedy tokens, and every log-probability when both read the same tokens."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from aphrodite import LLM, SamplingParams
from aphrodite.types.outputs import TokenLogprobs
from tests.support.checkpoints import VOCAB_SIZE
from tests.support.engines import engine, watch_preemption
from tests.support.reference import Reference

TOLERANCE = 1e-4
TOP = 5


class ParityError(AssertionError):
    """The engine and Transformers disagree."""


@dataclass
class Differences:
    """All |ours - theirs| of log-probabilities, in order; `places` says where each was seen."""

    values: list[float] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def add(self, ours: float, theirs: float, place: str) -> None:
        self.values.append(abs(ours - theirs) if ours == ours else float("inf"))  # NaN is as far as can be
        self.places.append(place)

    @property
    def largest(self) -> float:
        return max(self.values)

    @property
    def rms(self) -> float:
        return (sum(value * value for value in self.values) / len(self.values)) ** 0.5

    def require(self, tolerance: float) -> None:
        worst = max(range(len(self.values)), key=self.values.__getitem__)
        if self.values[worst] > tolerance:
            raise ParityError(
                f"log-probabilities differ by {self.values[worst]:.3g} at {self.places[worst]}, more than {tolerance}"
            )


def random_prompts(lengths: Iterable[int], seed: int) -> list[list[int]]:
    """Prompts of those lengths, of tokens that are not special."""
    print(f"prompts of seed {seed}")
    draw = random.Random(seed)
    return [[draw.randrange(3, VOCAB_SIZE) for _ in range(length)] for length in lengths]


def check_parity(
    llm: LLM, reference: Reference, prompts: Sequence[Sequence[int]], *, num_tokens: int = 8, label: str = ""
) -> float:
    """Both comparisons in float32; the largest difference of log-probabilities. ParityError beyond TOLERANCE."""
    greedy = compare_greedy(llm, reference, prompts, num_tokens)
    forced = compare_forced(llm, reference, prompts, num_tokens)
    largest = max(greedy.largest, forced.largest)
    print(f"parity {label}: largest difference {largest:.2e} over {len(forced.values)} forced log-probabilities")
    return largest


def check_preempted(
    folder: Path, device: str, reference: Reference, patch: pytest.MonkeyPatch, *, num_tokens: int = 16, label: str = ""
) -> None:
    """Parity in a cache so small that sequences are preempted while they decode, and computed again."""
    preempted = watch_preemption(patch)
    prompts = random_prompts((15, 16, 1, 14, 13, 31, 30), seed=4)
    with engine(folder, device, max_model_len=64, cache_tokens=64, max_num_batched_tokens=24) as llm:
        check_parity(llm, reference, prompts, num_tokens=num_tokens, label=f"{label}, preemption, {device}")
    assert any(drawn > 0 for drawn in preempted), "the cache was not small enough to preempt a decoding sequence"


def compare_greedy(llm: LLM, reference: Reference, prompts: Sequence[Sequence[int]], num_tokens: int) -> Differences:
    """All prompts in one batch: the tokens are Transformers', and where they first differ its top two are a tie."""
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True, logprobs=TOP))
    found = Differences()
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        theirs = reference.greedy(prompt, num_tokens)
        ours = output.outputs[0].token_ids
        where = f"prompt {number} of {len(prompt)} tokens"
        if len(ours) != num_tokens:
            raise ParityError(f"{where}: {len(ours)} tokens instead of {num_tokens}")
        truth = reference.logprobs([*prompt, *theirs])
        for step, (token, expected) in enumerate(zip(ours, theirs, strict=True)):
            row = truth[len(prompt) + step - 1]
            entries = (output.outputs[0].logprobs or [])[step]
            check_position(entries, token, row, found, f"{where}, output {step}")
            if token != expected:
                best = row.topk(2)
                if best.values[0] - best.values[1] > TOLERANCE or token not in best.indices.tolist():
                    raise ParityError(
                        f"{where}: token {step} is {token}, Transformers' is {expected} "
                        f"({row[expected] - row[token]:.3g} likelier)"
                    )
                break  # from here on they read different texts
    found.require(TOLERANCE)
    return found


def compare_forced(
    llm: LLM,
    reference: Reference,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    *,
    tolerance: float = TOLERANCE,
    teacher: Reference | None = None,
) -> Differences:
    """Transformers' tokens as prompts, all in one batch: every prompt and sample log-probability, and the likeliest.

    teacher  whose tokens are read, default the reference's own
    """
    texts = [[*prompt, *(teacher or reference).greedy(prompt, num_tokens)] for prompt in prompts]
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, logprobs=TOP, prompt_logprobs=TOP)
    found = Differences()
    for number, (text, output) in enumerate(zip(texts, llm.generate(texts, params), strict=True)):
        truth = reference.logprobs(text)
        positions = output.prompt_logprobs
        if positions is None or len(positions) != len(text) or positions[0] is not None:
            raise ParityError(f"prompt {number}: prompt_logprobs must have {len(text)} entries, the first of them None")
        following = [*text[1:], output.outputs[0].token_ids[0]]
        entries = [*positions[1:], (output.outputs[0].logprobs or [])[0]]
        for place, (token, given) in enumerate(zip(following, entries, strict=True)):
            where = f"prompt {number} of {len(text)} tokens, position {place + 1}"
            check_position(given or {}, token, truth[place], found, where, tolerance)
    found.require(tolerance)
    return found


def check_position(
    entries: TokenLogprobs,
    token: int,
    truth: torch.Tensor,
    found: Differences,
    where: str,
    tolerance: float = TOLERANCE,
    top: int = TOP,
) -> None:
    """One position: the chosen token and the `top` likeliest are there, their values and ranks right up to ties."""
    if token not in entries:
        raise ParityError(f"{where}: the log-probability of the chosen token {token} is missing")
    if len(entries) not in (top, top + 1) and not (top == 0 and len(entries) == 1):
        raise ParityError(f"{where}: {len(entries)} log-probabilities, asked for the chosen token and {top} more")
    for other, entry in entries.items():
        found.add(entry.logprob, truth[other].item(), f"{where}, token {other}")
        above = int((truth > truth[other] + 2 * tolerance).sum())
        below = int((truth >= truth[other] - 2 * tolerance).sum())
        if not above < entry.rank <= below:
            raise ParityError(f"{where}: token {other} has rank {entry.rank}, expected {above + 1} to {below}")
    best = sorted((entry.logprob for entry in entries.values()), reverse=True)[:top]
    for rank, (ours, theirs) in enumerate(zip(best, truth.topk(max(top, 1)).values.tolist(), strict=False), start=1):
        found.add(ours, theirs, f"{where}, rank {rank}")


def check_half_precision(
    llm: LLM,
    exact: Reference,
    theirs: Reference,
    prompts: Sequence[Sequence[int]],
    *,
    num_tokens: int = 8,
    tolerance: float,
    label: str = "",
) -> None:
    """ParityError unless the engine is near Transformers computing in the same type, and as near to float32 as it is.

    tolerance  the largest difference allowed from `theirs`, and from `exact`, whose tokens all three read
    """
    beside = compare_forced(llm, theirs, prompts, num_tokens, tolerance=tolerance, teacher=exact)
    error = compare_forced(llm, exact, prompts, num_tokens, tolerance=tolerance, teacher=exact)
    texts = [[*prompt, *exact.greedy(prompt, num_tokens)] for prompt in prompts]
    gaps = [(theirs.logprobs(text)[:-1] - exact.logprobs(text)[:-1])[range(len(text) - 1), text[1:]] for text in texts]
    rms = torch.cat(gaps).square().mean().sqrt().item()
    print(
        f"{label}: from Transformers {beside.largest:.2e} at most; from float32 {error.rms:.2e} rms beside "
        f"Transformers' {rms:.2e}"
    )
    if error.rms > 1.2 * rms:
        raise ParityError(f"{label}: {error.rms:.3g} rms from float32, Transformers {rms:.3g}")
