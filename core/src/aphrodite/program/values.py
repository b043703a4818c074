"""Symbols of a Program: activations, and references to weights, constants, KV and rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aphrodite.ops.kernel import Dims, Extent

if TYPE_CHECKING:
    import torch

Size = int | Extent


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the step: a buffer, or a view of one. Compared by identity.

    shape    the first axis may be an Extent; all others are numbers
    base     the buffer this is a view of, itself if it is one
    offset   elements from the start of each row of the base
    stride   elements between rows (first axis); inner axes are contiguous
    name     of an input or output that the caller provides, "" for one that lives in the arena
    """

    shape: tuple[Size, ...]
    dtype: str
    stride: int
    offset: int = 0
    name: str = ""
    view_of: Value | None = None

    @property
    def base(self) -> Value:
        return self.view_of or self

    def columns(self, start: int, stop: int) -> Value:
        """Columns start to stop of a [T, N] value."""
        assert len(self.shape) == 2
        return self._view(self.offset + start, (self.shape[0], stop - start))

    def heads(self, num_heads: int) -> Value:
        """A [T, H * D] value as [T, H, D]."""
        width = self.shape[1]
        assert isinstance(width, int) and width % num_heads == 0
        return self._view(self.offset, (self.shape[0], num_heads, width // num_heads))

    def flat(self) -> Value:
        """A [T, H, D] value as [T, H * D]."""
        return self._view(self.offset, (self.shape[0], self.width))

    def overlaps(self, other: Value) -> bool:
        """Whether the two have memory in common."""
        if self.base is not other.base:
            return False
        return self.offset < other.offset + other.width and other.offset < self.offset + self.width

    @property
    def width(self) -> int:
        """Elements of one row."""
        return math.prod(size for size in self.shape[1:] if isinstance(size, int))

    def _view(self, offset: int, shape: tuple[Size, ...]) -> Value:
        return Value(shape, self.dtype, self.stride, offset, view_of=self.base)

    @property
    def extent(self) -> Extent | None:
        """The first axis, if it varies."""
        return self.shape[0] if self.shape and isinstance(self.shape[0], Extent) else None

    def sizes(self, dims: Dims) -> tuple[int, ...]:
        """The shape in a step of these dims."""
        return tuple(size.at(dims) if isinstance(size, Extent) else size for size in self.shape)

    def strides(self) -> tuple[int, ...]:
        """Elements between neighbours along each axis."""
        inner: list[int] = []
        step = 1
        for size in reversed(self.shape[1:]):
            inner.insert(0, step)
            assert isinstance(size, int)
            step *= size
        return (self.stride, *inner) if self.shape else ()


def new_value(shape: tuple[Size, ...], dtype: str, name: str = "") -> Value:
    """A contiguous buffer."""
    stride = 1
    for size in shape[1:]:
        assert isinstance(size, int), f"only the first axis may vary, got {shape}"
        stride *= size
    return Value(shape, dtype, stride, name=name)


@dataclass(frozen=True)
class WeightRef:
    """A parameter of the model, [H] or [N, K]; a matrix gets its layout from the planner."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ConstantRef:
    """A table computed on the host at load; `make` returns it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], torch.Tensor]

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class KVRef:
    """One layer's part of a cache group. Hk kv heads; D and Dv sizes of a key and a value."""

    layer: int
    group: int
    num_heads: int
    head_dim: int
    value_dim: int
    dtype: str


@dataclass(frozen=True)
class RowsRef:
    """The row state."""


@dataclass(frozen=True)
class ModulesRef:
    """The modules of a network that another library runs."""


Ref = WeightRef | ConstantRef | KVRef | RowsRef | ModulesRef
Argument = Value | Ref | int | float | bool | str | None
