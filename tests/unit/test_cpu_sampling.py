"""The CPU plugin's draws and log-probabilities: by all that is asked of the operations' own forms, and beside those
forms on vocabularies large enough that every way through the kernel is taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import aphrodite_cpu.philox as philox
import aphrodite_cpu.sampling as cpu
from aphrodite.ops.philox import random_words
from aphrodite.ops.sampling import logprobs, sample
from tests.unit.ops import test_sampling as same
from tests.unit.ops.test_sampling import *  # noqa: F403  # every test there, run on these kernels


def draw(logits: torch.Tensor, **args: Any) -> list[int]:
    ids = torch.full((logits.shape[0],), -7)
    cpu.sample(ids, logits, **args)
    return ids.tolist()


def report(logits: torch.Tensor, chosen: list[int], n: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    r = logits.shape[0]
    lp, ids, rank = torch.empty(r, 1 + n), torch.empty(r, 1 + n, dtype=torch.int64), torch.empty(r, dtype=torch.int64)
    cpu.logprobs(lp, ids, rank, logits, torch.tensor(chosen, dtype=torch.int64))
    return lp, ids, rank.tolist()


@pytest.fixture(scope="module", autouse=True)
def kernels_in_place_of_forms() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(same, "draw", draw)
        patch.setattr(same, "report", report)
        yield


def by_form(logits: torch.Tensor, **args: Any) -> list[int]:
    """What the reference draws in float64, where hardly anything is near enough to a tie to be rounded into one."""
    ids = torch.full((logits.shape[0],), -7)
    sample.reference(ids, logits.double(), **args)
    return ids.tolist()


LIMITS: dict[str, dict[str, Any]] = {
    "none": {},
    "top_k": {"top_k": torch.tensor([0, 1, 5, 40, 900, 1999, 2001, 7], dtype=torch.int32)},
    "top_p": {"top_p": torch.tensor([1.0, 0.1, 0.5, 0.9, 0.99, 0.999, 1e-6, 0.7])},
    "min_p": {"min_p": torch.tensor([0.0, 1e-3, 0.1, 0.5, 1.0, 1e-6, 0.02, 0.9])},
}
LIMITS["all"] = LIMITS["top_k"] | LIMITS["top_p"] | LIMITS["min_p"]


@pytest.mark.parametrize("heap", [3, 1024])
@pytest.mark.parametrize("together", [8, 1024])
@pytest.mark.parametrize("spread", [0.3, 3.0, 40.0])
@pytest.mark.parametrize("limits", LIMITS)
def test_draws_are_those_of_the_reference(
    limits: str, spread: float, together: int, heap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From nearly even rows, whose noise is computed whole, to steep ones, of which a few tokens are looked at."""
    monkeypatch.setattr(cpu, "_TOGETHER", together)
    monkeypatch.setattr(cpu, "_HEAP", heap)
    monkeypatch.setattr(philox, "_BLOCK", 190)
    g = torch.Generator().manual_seed(int(spread * 10))
    for _ in range(4):
        logits = torch.randn(8, 2003, generator=g) * spread
        args = same.randomness(8, seed=int(torch.randint(0, 999, (1,), generator=g))) | LIMITS[limits]
        assert draw(logits, **args) == by_form(logits, **args)


def test_the_noise_is_that_of_the_reference_in_blocks_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(philox, "_BLOCK", 7)
    args = same.randomness(3, seed=5)
    key = (args["seed"], args["position"], args["child"])
    for vocab in (1, 4, 29, 61, 64):
        v = ((random_words(*key, 0, vocab).double() + 0.5) * 2.0**-32).clamp(max=1.0 - 2.0**-24)
        expected = -torch.log(-torch.log1p(-v))
        whole = torch.ones(3, vocab)
        philox.add_gumbel(whole, *key)
        torch.testing.assert_close(whole.double() - 1, expected, atol=1e-5, rtol=1e-5)
        some = torch.randint(0, vocab, (3, 9), generator=torch.Generator().manual_seed(vocab))
        torch.testing.assert_close(philox.gumbel(some, *key).double(), expected.gather(1, some), atol=1e-5, rtol=1e-5)
    assert expected.max() < cpu._HIGHEST


def test_the_noise_of_a_row_has_the_same_bits_in_any_batch() -> None:
    for vocab in (41, 2003, 40_000):
        args = same.randomness(9, seed=vocab)
        key = [args["seed"], args["position"], args["child"]]
        together = torch.zeros(9, vocab)
        philox.add_gumbel(together, *key)
        some = torch.randint(0, vocab, (9, 37), generator=torch.Generator().manual_seed(vocab))
        assert torch.equal(philox.gumbel(some, *key), together.gather(1, some))
        for row in range(9):
            alone = torch.zeros(1, vocab)
            philox.add_gumbel(alone, *(part[row : row + 1] for part in key))
            assert torch.equal(alone[0], together[row])


def test_a_row_draws_the_same_whatever_its_neighbours_need() -> None:
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(40, 3000, generator=g) * torch.logspace(-1, 1.5, 40)[:, None]
    args = same.randomness(40, seed=2) | {
        "top_k": torch.randint(0, 60, (40,), generator=g, dtype=torch.int32) * torch.randint(0, 2, (40,), generator=g),
        "top_p": torch.rand(40, generator=g) * 1.5,
    }
    args["top_p"].clamp_(0.05, 1.0)
    args["top_k"] = args["top_k"].int()
    together = draw(logits, **args)
    assert together == [draw(logits[i : i + 1], **{n: a[i : i + 1] for n, a in args.items()})[0] for i in range(40)]


def test_logprobs_of_many_equals_are_those_of_the_reference() -> None:
    g = torch.Generator().manual_seed(3)
    logits = torch.randint(-3, 4, (6, 500), generator=g).float()
    logits[1], logits[2] = 0.0, torch.randn(500, generator=g)
    logits[3, 7], logits[4] = torch.nan, -torch.inf
    chosen = [0, 499, 17, -1, -1, 3]
    lp, ids, rank = report(logits, chosen, 20)
    expected = torch.empty_like(lp), torch.empty_like(ids), torch.empty(6, dtype=torch.int64)
    logprobs.reference(*expected, logits, torch.tensor(chosen))
    sound = [0, 1, 2, 5]
    assert torch.equal(ids[sound], expected[1][sound]) and [rank[i] for i in sound] == expected[2][sound].tolist()
    torch.testing.assert_close(lp[sound], expected[0][sound])
    assert [rank[3], rank[4]] == [0, 0] and lp[3:5, 0].isnan().all()
