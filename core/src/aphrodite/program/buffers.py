"""Addresses of a Program's own values: two share memory when they are not alive at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aphrodite.ops.kernel import Dims
from aphrodite.platform.dtypes import ITEMSIZE
from aphrodite.program.trace import Call
from aphrodite.program.values import Value

ALIGN = 256


@dataclass(frozen=True)
class ArenaPlan:
    """Offsets in bytes of each base value and of each piece's scratch, at the bounds they were planned for."""

    num_bytes: int
    offsets: Mapping[Value, int]
    scratch: Mapping[tuple[int, int], int]


@dataclass
class _Interval:
    """[ first call | ... | last call ] in which `num_bytes` are needed."""

    first: int
    last: int
    num_bytes: int
    offset: int = -1


def lifetimes(calls: Sequence[Call]) -> dict[Value, tuple[int, int]]:
    """First and last call that touch each base value of the arena; values the caller provides are left out."""
    spans: dict[Value, tuple[int, int]] = {}
    for index, call in enumerate(calls):
        for arg in call.args.values():
            if isinstance(arg, Value) and not arg.base.name:
                first, _ = spans.get(arg.base, (index, index))
                spans[arg.base] = (first, index)
    return spans


Piece = tuple[int, int]  # calls [start, stop) that one kernel does


def plan_arena(calls: Sequence[Call], bounds: Dims, scratch: Mapping[Piece, int]) -> ArenaPlan:
    """Lay out all values in the smallest arena that greedy placement finds: largest first, each at the lowest offset
    that is free during its whole life.

    scratch  for every piece that one kernel may do, the scratch bytes it needs (0 for none). A kernel reads and writes
             in an order of its own, so whatever is alive anywhere in a piece is alive in all of it
    """
    intervals = {
        value: _Interval(*_widened(first, last, scratch), num_bytes(value, bounds))
        for value, (first, last) in lifetimes(calls).items()
    }
    extra = {piece: _Interval(piece[0], piece[1] - 1, size) for piece, size in scratch.items() if size}
    placed: list[_Interval] = []
    everything = [*intervals.values(), *extra.values()]
    for item in sorted(everything, key=lambda i: (-i.num_bytes, i.first, i.last)):
        item.offset = _lowest_gap(item, placed)
        placed.append(item)
    total = max((item.offset + item.num_bytes for item in placed), default=0)
    return ArenaPlan(
        _aligned(total),
        {value: item.offset for value, item in intervals.items()},
        {piece: item.offset for piece, item in extra.items()},
    )


def _widened(first: int, last: int, pieces: Iterable[Piece]) -> Piece:
    """First and last call of a life, widened to the pieces that it begins and ends in."""
    touched = [(start, stop) for start, stop in pieces if start <= last and first < stop]
    return min([first, *(start for start, _ in touched)]), max([last, *(stop - 1 for _, stop in touched)])


def num_bytes(value: Value, bounds: Dims) -> int:
    """Bytes of a base value at the bounds."""
    shape = value.sizes(bounds)
    rows = shape[0] if shape else 1
    return rows * (value.stride if len(shape) > 1 else 1) * ITEMSIZE[value.dtype]


def _lowest_gap(item: _Interval, placed: Sequence[_Interval]) -> int:
    neighbours = [p for p in placed if p.first <= item.last and item.first <= p.last]
    offset = 0
    for other in sorted(neighbours, key=lambda p: p.offset):
        if offset + item.num_bytes <= other.offset:
            break
        offset = max(offset, _aligned(other.offset + other.num_bytes))
    return offset


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
