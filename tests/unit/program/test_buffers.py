"""Liveness and the arena: values that are alive together never share a byte."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aphrodite.ops.kernel import Dims, Extent
from aphrodite.ops.norm import add
from aphrodite.platform.dtypes import ITEMSIZE
from aphrodite.program.buffers import ALIGN, lifetimes, num_bytes, plan_arena
from aphrodite.program.trace import Call
from aphrodite.program.values import Value, new_value
from tests.unit.program.parts import BOUNDS, forward

T = Extent("T")


@st.composite
def programs(draw: Any) -> tuple[list[Call], Dims, dict[tuple[int, int], int]]:
    """Calls over random buffers and views of them, and the pieces that one kernel may do with the scratch each needs;
    what an operation means does not matter here."""
    dtypes = st.sampled_from(["f32", "bf16", "i64", "u8"])
    rows, names = st.sampled_from([T, 1, 3]), st.sampled_from(["", "", "", "in"])
    values = [
        new_value((draw(rows), draw(st.integers(1, 300))), draw(dtypes), draw(names))
        for _ in range(draw(st.integers(1, 12)))
    ]  # fmt: skip
    calls = []
    for index in range(draw(st.integers(1, 12))):
        used = draw(st.lists(st.sampled_from(values), min_size=1, max_size=4))
        args: dict[str, Any] = {}
        for place, value in enumerate(used):
            width = value.shape[1]
            assert isinstance(width, int)
            args[f"a{place}"] = value.columns(0, width // 2) if width > 1 and draw(st.booleans()) else value
        calls.append(Call(add, f"site{index}", {**args, "n": 3}, {}))
    starts, lengths = st.integers(0, len(calls) - 1), st.integers(1, 3)
    cuts = draw(st.dictionaries(st.tuples(starts, lengths), st.integers(0, 5000)))
    scratch = {(start, min(start + length, len(calls))): size for (start, length), size in cuts.items()}
    return calls, Dims(T=draw(st.integers(0, 40))), scratch


@given(programs())
@settings(max_examples=300)
def test_what_lives_together_does_not_overlap(made: tuple[list[Call], Dims, dict[tuple[int, int], int]]) -> None:
    calls, bounds, scratch = made
    plan = plan_arena(calls, bounds, scratch)
    bases = {a.base for call in calls for a in call.args.values() if isinstance(a, Value) and not a.base.name}
    assert set(plan.offsets) == bases, "every value that the caller does not provide has a place, and no other"
    pieces = []  # (first call, last call, first byte, byte behind)
    for value in bases:
        uses = [
            i
            for i, call in enumerate(calls)
            if any(isinstance(a, Value) and a.base is value for a in call.args.values())
        ]
        size = value.sizes(bounds)[0] * value.stride * ITEMSIZE[value.dtype]
        touched = [piece for piece in scratch if piece[0] <= uses[-1] and uses[0] < piece[1]]
        first = min([uses[0], *(start for start, _ in touched)])
        last = max([uses[-1], *(stop - 1 for _, stop in touched)])
        pieces.append((first, last, plan.offsets[value], plan.offsets[value] + size))
    for (start, stop), size in scratch.items():
        if size:
            place = plan.scratch[start, stop]
            pieces.append((start, stop - 1, place, place + size))
    for one, other in itertools.combinations(pieces, 2):
        together = one[0] <= other[1] and other[0] <= one[1]
        shared = max(one[2], other[2]) < min(one[3], other[3])
        assert not (together and shared), (one, other)
    assert all(start % ALIGN == 0 and stop <= plan.num_bytes for _, _, start, stop in pieces)
    assert plan.num_bytes % ALIGN == 0
    assert plan.num_bytes <= sum(-(-(stop - start) // ALIGN) * ALIGN for _, _, start, stop in pieces)
    moments = [sum(p[3] - p[2] for p in pieces if p[0] <= i <= p[1]) for i in range(len(calls))]
    assert plan.num_bytes >= max(moments), "no arena holds more than its size"


def test_a_view_keeps_its_base_alive() -> None:
    a, b, c = (new_value((T, 8), "f32") for _ in range(3))
    calls = [
        Call(add, "0", {"x": a, "y": b}, {}),
        Call(add, "1", {"x": c}, {}),
        Call(add, "2", {"x": a.columns(2, 4)}, {}),
    ]
    spans = lifetimes(calls)
    assert spans == {a: (0, 2), b: (0, 0), c: (1, 1)}
    plan = plan_arena(calls, Dims(T=10), {})
    assert plan.offsets[c] == plan.offsets[b] != plan.offsets[a], "c takes the place of b, which is dead; a is not"


def test_an_arena_of_a_decoder_is_far_smaller_than_its_values() -> None:
    _, program = forward(layers=8)
    plan = plan_arena(program.calls, BOUNDS, {})
    total = sum(num_bytes(value, BOUNDS) for value in plan.offsets)
    _, shallow = forward(layers=2)
    assert plan.num_bytes < total / 4
    assert plan.num_bytes == plan_arena(shallow.calls, BOUNDS, {}).num_bytes, "depth costs nothing"


def test_nothing_needs_nothing() -> None:
    assert plan_arena([], Dims(T=4), {}).num_bytes == 0
    empty = new_value((0,), "i32")
    assert plan_arena([Call(add, "0", {"x": empty}, {})], Dims(), {}).num_bytes == 0
