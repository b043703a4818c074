"""Sizes that vary from step to step, rounded up to the few that choices are made for."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Collection, Sequence

from aphrodite.ops.kernel import Dims


def buckets(bound: int, listed: Sequence[int] = ()) -> tuple[int, ...]:
    """Sizes that a varying size is rounded up to: those listed, else powers of two, and the bound itself."""
    sizes = listed or tuple(1 << i for i in range(bound.bit_length()))
    return (*sorted(size for size in sizes if size < bound), bound)


class Buckets:
    """The buckets of each varying size.

    bounds      largest sizes of a step
    num_tokens  for T, those that the device prefers, if it does
    """

    def __init__(self, bounds: Dims, num_tokens: Sequence[int] = ()) -> None:
        self.bounds = bounds
        self._axes = tuple(
            buckets(bound, num_tokens if name == "T" else ()) for name, bound in zip(Dims._fields, bounds, strict=True)
        )

    def of(self, dims: Dims) -> Dims:
        """Each size rounded up to its bucket, as choices are made."""
        axes = zip(dims, self._axes, strict=True)
        return Dims(*(sizes[min(bisect_left(sizes, size), len(sizes) - 1)] for size, sizes in axes))

    def across(self, axes: Collection[int]) -> list[Dims]:
        """Every combination of buckets of these sizes, by their index in Dims; the others are at their bound."""
        sizes = [self._axes[i] if i in axes else (bound,) for i, bound in enumerate(self.bounds)]
        return [Dims(*combination) for combination in itertools.product(*sizes)]
