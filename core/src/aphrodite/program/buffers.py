"""Addresses of a Program's own values: two share memory when they are not alive at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aphrodite.ops.kernel import Dims
from aphrodite.platform.dtypes import ITEMSIZE
from aphrodite.program.trace import Call
from aphrodite.program.values import Value

ALIGN = 256


@dataclass(frozen=True)
class ArenaPlan:
    """Offsets in bytes of each base value and of each call's scratch, at the bounds they were planned for."""

    num_bytes: int
    offsets: Mapping[Value, int]
    scratch: Mapping[int, int]


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


def plan_arena(calls: Sequence[Call], bounds: Dims, scratch: Mapping[int, int]) -> ArenaPlan:
    """Lay out all values, and `scratch` bytes needed by the call of each index, in the smallest arena that greedy
    placement finds: largest first, each at the lowest offset free during its whole life."""
    intervals = {
        value: _Interval(first, last, num_bytes(value, bounds)) for value, (first, last) in lifetimes(calls).items()
    }
    extra = {index: _Interval(index, index, size) for index, size in scratch.items()}
    placed: list[_Interval] = []
    everything = [*intervals.values(), *extra.values()]
    for item in sorted(everything, key=lambda i: (-i.num_bytes, i.first, i.last)):
        item.offset = _lowest_gap(item, placed)
        placed.append(item)
    total = max((item.offset + item.num_bytes for item in placed), default=0)
    return ArenaPlan(
        _aligned(total),
        {value: item.offset for value, item in intervals.items()},
        {index: item.offset for index, item in extra.items()},
    )


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
