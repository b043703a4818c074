"""Drawing and log-probabilities: ties, bad rows, independence of rows, truncation by brute force, the distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aphrodite.ops.sampling import logprobs, sample
from aphrodite.platform.dtypes import torch_dtype
from tests.unit.ops.test_philox import second

DTYPES = ("f32", "bf16", "f16")


def draw(logits: torch.Tensor, **args: Any) -> list[int]:
    ids = torch.full((logits.shape[0],), -7)
    sample.reference(ids, logits, **args)
    return ids.tolist()


def randomness(count: int, *, temperature: float = 1.0, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "temperature": torch.full((count,), temperature),
        "seed": torch.randint(0, 2**62, (count,), generator=g),
        "position": torch.randint(0, 5000, (count,), generator=g),
        "child": torch.randint(0, 4, (count,), generator=g, dtype=torch.int32),
    }


def noise(seed: int, position: int, child: int, vocab: int) -> np.ndarray[Any, Any]:
    """Gumbel noise of one row, from the published formula."""
    key = [seed & 0xFFFFFFFF, seed >> 32]
    made = [word for quad in range(-(-vocab // 4)) for word in second([quad, position, child, 0], key)][:vocab]
    return np.array([-math.log(-math.log1p(-(word + 0.5) * 2.0**-32)) for word in made])


def kept(row: np.ndarray[Any, Any], top_k: int, top_p: float, min_p: float) -> set[int]:
    """Which tokens min_p, then top_k, then top_p leave, from their definitions and one token at a time."""
    weight = np.exp(row - row.max())
    left = {i for i in range(len(row)) if weight[i] >= min_p}
    if top_k:
        left = {i for i in left if sum(row[j] > row[i] for j in left) < top_k}
    if top_p < 1.0:
        total = sum(weight[i] for i in left)
        order = sorted(left, key=lambda i: (-row[i], i))
        before = 0.0
        left = set()
        for place, i in enumerate(order):
            if place == 0 or before < top_p * total:
                left.add(i)
            before += weight[i]
    return left


def test_greedy_takes_the_largest_and_the_lower_id_of_equals() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0], [-9.0, -8.0, -7.0, -7.0]])
    assert draw(logits) == [1, 0, 2]
    assert draw(logits, **randomness(3, temperature=0.0)) == [1, 0, 2]


def test_a_row_at_temperature_0_is_greedy_among_random_ones() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(3))
    args = randomness(6, seed=1)
    mixed = args | {"temperature": args["temperature"] * torch.tensor([1, 0, 1, 1, 0, 1])}
    alone, together = draw(logits, **args), draw(logits, **mixed)
    greedy = draw(logits)
    assert together == [greedy[i] if i in (1, 4) else alone[i] for i in range(6)]
    assert alone != greedy, "at temperature 1 not every row of 50 tokens falls on the largest"


def test_a_forced_id_is_taken_as_it_is() -> None:
    logits = torch.randn(3, 9)
    assert draw(logits, forced=torch.tensor([8, -1, 0])) == [8, logits[1].argmax().item(), 0]
    args = randomness(3)
    free = draw(logits, **args)
    assert draw(logits, forced=torch.tensor([-1, 4, -1]), **args) == [free[0], 4, free[2]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("random", [False, True])
def test_rows_that_are_no_numbers_give_minus_one_and_touch_no_other_row(dtype: str, random: bool) -> None:
    clean = torch.randn(5, 30, generator=torch.Generator().manual_seed(2)).to(torch_dtype(dtype))
    args: dict[str, Any] = randomness(5) if random else {}
    expected = draw(clean, **args)
    broken = clean.clone()
    broken[0, 3], broken[1], broken[3, 7] = torch.nan, -torch.inf, torch.inf
    assert draw(broken, **args) == [-1, -1, expected[2], -1, expected[4]]
    forced = torch.tensor([5, 5, 5, 5, -1])
    assert draw(broken, forced=forced, **args) == [-1, -1, 5, -1, expected[4]]


def test_masked_tokens_are_never_drawn() -> None:
    logits = torch.full((200, 8), -torch.inf)
    logits[:, [2, 5]] = 0.0
    assert set(draw(logits, **randomness(200))) == {2, 5}


@pytest.mark.parametrize("seed", range(3))
def test_a_row_alone_draws_what_it_draws_in_a_batch(seed: int) -> None:
    logits = torch.randn(7, 1000, generator=torch.Generator().manual_seed(seed))
    limits = {"top_k": torch.tensor([0, 3, 9, 0, 1, 50, 0]), "top_p": torch.rand(7), "min_p": torch.rand(7) * 0.1}
    args = randomness(7, seed=seed) | limits
    together = draw(logits, **args)
    assert together == [draw(logits[i : i + 1], **{n: a[i : i + 1] for n, a in args.items()})[0] for i in range(7)]


@pytest.mark.parametrize("seed", range(3))
def test_a_row_whose_limits_are_off_draws_what_it_draws_without_any(seed: int) -> None:
    logits = torch.randn(400, 50, generator=torch.Generator().manual_seed(seed)) * 2
    args = randomness(400, seed=seed)
    limited = torch.arange(400) % 2 == 0
    off = {"top_k": (1, 0, torch.int32), "top_p": (0.1, 1.0, torch.float32), "min_p": (0.9, 0.0, torch.float32)}
    limits = {name: torch.where(limited, on, none).to(dtype) for name, (on, none, dtype) in off.items()}
    free, mixed = draw(logits, **args), draw(logits, **args, **limits)
    assert mixed[1::2] == free[1::2] and mixed[0::2] == draw(logits)[0::2] != free[0::2]


@pytest.mark.parametrize("seed", range(6))
def test_a_draw_is_the_argmax_of_scaled_logits_plus_the_published_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocab, temperature = 37, float(rng.uniform(0.3, 2))
    logits = torch.from_numpy(rng.normal(size=(8, vocab)) * 2)
    args = randomness(8, temperature=temperature, seed=seed)
    ids = draw(logits, **args)
    for r, token in enumerate(ids):
        row = noise(int(args["seed"][r]), int(args["position"][r]), int(args["child"][r]), vocab)
        score = logits[r].numpy() / float(args["temperature"][r]) + row
        assert score[token] >= score.max() - 1e-6


@pytest.mark.parametrize("which", ["seed", "position", "child"])
def test_every_part_of_the_key_and_counter_matters(which: str) -> None:
    logits = torch.zeros(40, 1000)
    args = randomness(40)
    changed = args | {which: args[which] + 1}
    same = sum(a == b for a, b in zip(draw(logits, **args), draw(logits, **changed), strict=True))
    assert same <= 3


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    """Chi-square over 20,000 draws at consecutive positions; 99.99 % of true samplers pass."""
    count, row = 20_000, torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -2.0, 1.5, -0.5])
    args = {
        "temperature": torch.full((count,), temperature),
        "seed": torch.full((count,), 1234567890123),
        "position": torch.arange(count),
        "child": torch.zeros(count, dtype=torch.int32),
    }
    seen = np.bincount(draw(row.expand(count, -1), **args), minlength=8)
    expected = (row.double() / temperature).softmax(0).numpy() * count
    assert (((seen - expected) ** 2) / expected).sum() < 29.9  # 7 degrees of freedom


@pytest.mark.parametrize("seed", range(30))
def test_truncation_by_brute_force(seed: int) -> None:
    """Logits on a coarse grid, so that ties are common; 400 draws at a high temperature visit all that is left."""
    rng = np.random.default_rng(seed)
    row = rng.integers(-3, 4, 12) * 0.5
    top_k = int(rng.integers(0, 14))
    top_p, min_p = (float(np.float32(x)) for x in (rng.choice([1.0, 0.37, 0.83]), rng.choice([0.0, 0.11, 0.57])))
    count = 600
    args = randomness(count, seed=seed) | {
        "top_k": torch.full((count,), top_k, dtype=torch.int32),
        "top_p": torch.full((count,), top_p),
        "min_p": torch.full((count,), min_p),
    }
    seen = set(draw(torch.from_numpy(row).expand(count, -1), **args))
    legal = kept(row, top_k, top_p, min_p)
    assert seen <= legal, f"seed {seed}: drew {sorted(seen - legal)} in spite of {top_k=} {top_p=} {min_p=}"
    likely = {i for i in legal if math.exp(row[i]) / sum(math.exp(row[j]) for j in legal) > 0.03}
    assert likely <= seen, f"seed {seed}: never drew {sorted(likely - seen)}"


def test_truncation_leaves_at_least_the_likeliest_token() -> None:
    logits = torch.tensor([[0.0, 4.0, 1.0]]).expand(3, -1)
    limits = {
        "top_k": torch.tensor([1, 0, 0], dtype=torch.int32),
        "top_p": torch.tensor([1.0, 1e-6, 1.0]),
        "min_p": torch.tensor([0.0, 0.0, 1.0]),
    }
    assert draw(logits, **randomness(3, temperature=50.0), **limits) == [1, 1, 1]


@pytest.mark.parametrize("temperature", [1e-4, 1e-20, 1e-38, 1e-44])
def test_a_tiny_temperature_is_as_good_as_none(temperature: float) -> None:
    logits = torch.tensor([[5.0, 3.0, 9.0], [-5.0, -9.0, -3.0]])
    assert draw(logits, **randomness(2, temperature=temperature)) == [2, 2]


def test_a_single_token_and_no_rows_at_all() -> None:
    assert draw(torch.randn(4, 1), **randomness(4)) == [0, 0, 0, 0]
    assert draw(torch.randn(0, 5)) == []


# ---- log-probabilities ----------------------------------------------------------------------------------------------


def report(logits: torch.Tensor, chosen: list[int], n: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    r = logits.shape[0]
    lp, ids, rank = torch.empty(r, 1 + n), torch.empty(r, 1 + n, dtype=torch.int64), torch.empty(r, dtype=torch.int64)
    logprobs.reference(lp, ids, rank, logits, torch.tensor(chosen, dtype=torch.int64))
    return lp, ids, rank.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_logprobs_are_the_log_softmax_of_float64(dtype: str, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(6, 300, generator=g) * 4).to(torch_dtype(dtype))
    chosen = torch.randint(0, 300, (6,), generator=g).tolist()
    lp, ids, rank = report(logits, chosen, 5)
    for r, row in enumerate(logits.double().numpy()):
        exact = row - (row.max() + math.log(math.fsum(np.exp(row - row.max()))))
        order = sorted(range(300), key=lambda i: (-row[i], i))
        assert ids[r].tolist() == [chosen[r], *order[:5]]
        np.testing.assert_allclose(lp[r].numpy(), exact[ids[r]], atol=2e-5)
        assert rank[r] == 1 + int((row > row[chosen[r]]).sum())


def test_ties_go_to_the_lower_id_and_share_a_rank() -> None:
    lp, ids, rank = report(torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]]), [3], 4)
    assert ids.tolist() == [[3, 1, 2, 3, 0]]
    assert rank == [1]
    assert lp[0, 0] == lp[0, 1] == lp[0, 3]


def test_no_chosen_token_gives_nan_and_rank_0_and_the_top_all_the_same() -> None:
    lp, ids, rank = report(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), [-1, 0], 1)
    assert lp[0, 0].isnan() and ids[0].tolist() == [-1, 1] and rank == [0, 2]
    assert lp[0, 1] == pytest.approx(-math.log(1 + math.exp(-1)))
    assert lp[1].tolist() == pytest.approx([-1 - math.log(1 + math.exp(-1)), -math.log(1 + math.exp(-1))])


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=9))
def test_all_logprobs_of_a_row_sum_to_one(row: list[float]) -> None:
    lp, _, _ = report(torch.tensor([row]), [0], len(row))
    assert lp[0, 1:].exp().sum().item() == pytest.approx(1.0, abs=1e-4)
    assert (lp[0, 1:].diff() <= 0).all()
