"""Edits and penalties of logits against plain Python in float64, one row, one token at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aphrodite.ops.logits import edit_logits, penalise_logits
from aphrodite.ops.op import Op
from aphrodite.ops.rows import draw_limits, write_rows
from aphrodite.platform.layout import Rows
from aphrodite.runner.rows import RowTable
from aphrodite.types.shaping import MAX_BAD_TOKENS, MAX_BIASES, MAX_STOPS, Shaping
from aphrodite.types.step import NewRow

VOCAB, NUM_ROWS, MAX_LEN = 41, 5, 24
Array = np.ndarray[Any, Any]


@dataclass
class Case:
    """A row's request and history."""

    tokens: list[int]
    shaping: Shaping = field(default_factory=Shaping)


def state(cases: dict[int, Case], vocab: int = VOCAB, stale: int = 7) -> Rows:
    """Rows as the host writes them, over what earlier requests left."""
    table = RowTable(num_rows=NUM_ROWS, max_len=MAX_LEN, table_width=3, num_groups=1, vocab_size=vocab)
    rows = Rows(torch.full(table.shape, stale, dtype=torch.int32), table.fields)
    news = [NewRow(row, tuple(case.tokens), 0, 1.0, 0, 0, case.shaping) for row, case in cases.items()]
    write_rows.reference(rows, *map(torch.from_numpy, table.updates(news, [])))
    return rows


def run(op: Op, logits: torch.Tensor, rows: Rows, draw_rows: list[int], **host: int) -> torch.Tensor:
    out = torch.full(logits.shape, 99.0, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
    before = rows.state.clone()
    op.reference(out, logits, rows, torch.tensor(draw_rows, dtype=torch.int32), **host)
    assert torch.equal(rows.state, before), "the rows are read only"
    return out


def edited(row: Array, case: Case) -> Array:
    """What the contract says of edit_logits, in plain words."""
    s, output = case.shaping, case.tokens[case.shaping.num_prompt :]
    out = row.copy()
    for token in range(len(row)):
        if math.isnan(row[token]) or row[token] == math.inf:
            continue
        out[token] += dict(s.biases).get(token, 0.0)
        forbidden = s.allowed is not None and token not in s.allowed
        forbidden |= len(case.tokens) < s.min_len and token in s.stops
        for word in s.bad_words:
            *before, last = word
            ends = len(before) <= len(output) and output[len(output) - len(before) :] == before
            forbidden |= token == last and ends
        if forbidden:
            out[token] = -math.inf
    return out


def penalised(row: Array, case: Case) -> Array:
    """What the contract says of penalise_logits, in plain words."""
    s, output = case.shaping, case.tokens[case.shaping.num_prompt :]
    out = row.copy()
    for token in range(len(row)):
        if not math.isfinite(row[token]):
            continue
        if token in case.tokens:
            out[token] = out[token] / s.repetition if out[token] > 0 else out[token] * s.repetition
        out[token] -= s.frequency * output.count(token)
        out[token] -= s.presence * (token in output)
    return out


TRUTHS = ((edit_logits, edited), (penalise_logits, penalised))

ids = st.integers(0, VOCAB - 1)
f32 = {"width": 32, "allow_nan": False}
shapings = st.builds(
    Shaping,
    num_prompt=st.integers(1, 6),
    repetition=st.sampled_from([1.0, 1.5, 0.25, 3.0]),
    frequency=st.sampled_from([0.0, 0.5, -2.0, 1.25]),
    presence=st.sampled_from([0.0, 2.0, -0.75]),
    min_len=st.integers(0, MAX_LEN),
    stops=st.lists(ids, max_size=4, unique=True).map(tuple),
    biases=st.dictionaries(ids, st.floats(-100, 100, **f32), max_size=5).map(lambda d: tuple(d.items())),
    allowed=st.none() | st.lists(ids, min_size=1, max_size=VOCAB, unique=True).map(tuple),
    bad_words=st.lists(
        st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), max_size=6, unique=True
    ).map(tuple),
)  # fmt: skip
few = st.integers(0, 3) | ids  # few values, so that words and repeats are met
cases = st.builds(Case, st.lists(few, min_size=6, max_size=MAX_LEN), shapings | st.just(Shaping()))
values = st.floats(-30, 30, **f32) | st.sampled_from([-0.0, 0.0, math.nan, math.inf, -math.inf])


@given(st.lists(cases, min_size=1, max_size=NUM_ROWS), st.data())
@settings(max_examples=60, deadline=None)
def test_edits_and_penalties_mean_what_the_contract_says(given_cases: list[Case], data: st.DataObject) -> None:
    rows = state(dict(enumerate(given_cases)))
    draw_rows = data.draw(st.permutations(range(-1, len(given_cases))))
    picked = data.draw(st.lists(values, min_size=VOCAB, max_size=VOCAB))
    single = torch.from_numpy(np.stack([np.roll(picked, place) for place in range(len(draw_rows))])).float()
    for op, truth in TRUTHS:
        for logits, close in ((single, 1e-5), (single.double(), 1e-12)):
            out = run(op, logits, rows, draw_rows)
            for place, row in enumerate(draw_rows):
                expected = truth(logits[place].double().numpy(), given_cases[row]) if row >= 0 else logits[place]
                np.testing.assert_allclose(out[place].numpy(), expected, rtol=close, atol=close)


@given(st.lists(cases, min_size=2, max_size=NUM_ROWS), st.data())
@settings(max_examples=40, deadline=None)
def test_a_row_has_the_same_bits_alone_and_among_others(given_cases: list[Case], data: st.DataObject) -> None:
    rows = state(dict(enumerate(given_cases)))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    logits = torch.randn(len(given_cases), VOCAB, generator=g) * 5
    for op, _ in TRUTHS:
        together = run(op, logits, rows, list(range(len(given_cases))))
        for row, case in enumerate(given_cases):
            alone = run(op, logits[row : row + 1], state({row: case}, stale=13), [row])
            assert torch.equal(alone[0].view(torch.int32), together[row].view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("op", "used"), [(edit_logits, {"biases": ((3, 5.0),)}), (penalise_logits, {"presence": 1.0})])
def test_a_row_that_does_not_use_the_stage_or_draws_nothing_is_copied_bit_for_bit(
    op: Op, used: dict[str, Any], dtype: torch.dtype
) -> None:
    full = Shaping(num_prompt=1, **used)
    rows = state({0: Case([3, 3, 3], full), 1: Case([3, 3, 3]), 2: Case([3, 3], full)})
    logits = (torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(1)) * 9).to(dtype)
    logits[:, :5] = torch.tensor([-0.0, math.nan, math.inf, -math.inf, 0.0])
    logits[:, 3] = 2.0
    out = run(op, logits, rows, [0, 1, -1, 2])
    for place in (1, 2):
        assert torch.equal(out[place].view(torch.int32), logits[place].float().view(torch.int32))
    assert out[0, 3] != 2.0 and out[3, 3] != 2.0


def test_tokens_of_minus_one_and_a_host_bound_change_nothing() -> None:
    shaping = Shaping(num_prompt=2, repetition=2.0, frequency=0.5, bad_words=((4, 5),))
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(3))
    clean, broken = Case([4, 1, 4, 4], shaping), Case([4, 1, 4, 4, -1, -1], shaping)
    expected = torch.from_numpy(penalised(logits[0].double().numpy(), clean)).float()
    for case in (clean, broken):
        rows = state({0: case})
        for host in ({}, {"max_k": len(case.tokens)}, {"max_k": 1000}):
            torch.testing.assert_close(run(penalise_logits, logits, rows, [0], **host)[0], expected)
    assert run(edit_logits, logits, state({0: clean}), [0])[0, 5] == -math.inf
    assert run(edit_logits, logits, state({0: broken}), [0])[0, 5] == logits[0, 5], "nothing known stands before"


def test_a_bad_word_needs_its_start_in_the_output_not_in_the_prompt() -> None:
    word = Shaping(num_prompt=3, bad_words=((1, 2, 3),))
    zeros = torch.zeros(1, VOCAB)

    def forbidden(tokens: list[int]) -> list[int]:
        return run(edit_logits, zeros, state({0: Case(tokens, word)}), [0])[0].isneginf().nonzero().flatten().tolist()

    assert forbidden([9, 9, 9, 1, 2]) == [3]
    assert forbidden([9, 1, 2]) == forbidden([9, 9, 1, 2]) == forbidden([9, 9, 9, 1, 2, 2]) == []
    assert forbidden([9, 9, 9, 1, 2, 1, 2]) == [3]


def test_lists_may_be_as_long_as_their_bounds() -> None:
    vocab = 3000
    shaping = Shaping(
        num_prompt=1,
        min_len=9,
        stops=tuple(range(MAX_STOPS)),
        biases=tuple((1000 + i, 1.0) for i in range(MAX_BIASES)),
        bad_words=tuple((2900, 200 + i) for i in range(MAX_BAD_TOKENS // 2)),
        allowed=tuple(range(vocab - 1)),
    )
    out = run(edit_logits, torch.zeros(1, vocab), state({0: Case([5, 2900], shaping)}, vocab), [0])[0]
    expected = torch.zeros(vocab)
    expected[:MAX_STOPS] = expected[200 : 200 + MAX_BAD_TOKENS // 2] = expected[-1] = -math.inf
    expected[1000 : 1000 + MAX_BIASES] = 1.0
    assert torch.equal(out, expected)


@pytest.mark.parametrize("repetition", [1e-45, 1e-38, 3e38])
def test_no_penalty_makes_an_infinity_of_a_number(repetition: float) -> None:
    shaping = Shaping(num_prompt=1, repetition=repetition)
    logits = torch.tensor([[3.0e38, -3.0e38, 0.0, -0.0, 1.0, -1.0, -math.inf]])
    out = run(penalise_logits, logits, state({0: Case(list(range(7)), shaping)}, vocab=7), [0])[0]
    assert out[:6].isfinite().all() and out[6] == -math.inf
    assert (out[:2].sign() == torch.tensor([1.0, -1.0])).all() or repetition < 1e-30


def test_in_place_is_the_same_as_out_of_place() -> None:
    case = Case(
        [1, 2, 2, 3], Shaping(num_prompt=1, biases=((2, 1.5),), allowed=(1, 2, 3), repetition=1.3, presence=0.5)
    )
    for op, _ in TRUTHS:
        logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(2))
        expected = run(op, logits, state({0: case}), [0])
        op.reference(logits, logits, state({0: case}), torch.tensor([0], dtype=torch.int32))
        assert torch.equal(logits, expected)


@pytest.mark.parametrize("shape", [(0, VOCAB), (0, 0)])
def test_no_rows_is_no_work(shape: tuple[int, int]) -> None:
    for op, _ in TRUTHS:
        assert run(op, torch.empty(shape), state({}), []).shape == shape


def test_limits_are_those_of_the_row_and_off_where_nothing_is_drawn() -> None:
    rows = state({0: Case([1], Shaping(top_k=3, top_p=0.5, min_p=0.25)), 1: Case([1])})
    draw_rows = torch.tensor([1, 0, -1, 0], dtype=torch.int32)
    top_k, top_p, min_p = torch.empty(4, dtype=torch.int32), torch.empty(4), torch.empty(4)
    draw_limits.reference(top_k, top_p, min_p, rows, draw_rows)
    assert top_k.tolist() == [0, 3, 0, 3]
    assert top_p.tolist() == [1.0, 0.5, 1.0, 0.5]
    assert min_p.tolist() == [0.0, 0.25, 0.0, 0.25]
