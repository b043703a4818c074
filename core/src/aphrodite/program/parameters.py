"""Parameters as a network declares them: a name, a shape, and which checkpoint tensors fill which rows."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

from aphrodite.program.values import WeightRef

Tensors = Sequence[tuple[str, tuple[int, ...]]]  # checkpoint tensors, by name and shape


@dataclass(frozen=True)
class Source:
    """Rows of a parameter, from `start` on, come from the checkpoint tensor `tensor` of this shape."""

    tensor: str
    shape: tuple[int, ...]
    start: int = 0

    @property
    def num_rows(self) -> int:
        return num_rows(self.shape)


@dataclass(frozen=True)
class Parameter:
    """A parameter and its sources, which cover its rows without overlap.

    others  the same in other forms that checkpoints are written in
    """

    ref: WeightRef
    sources: tuple[Source, ...]
    others: tuple[tuple[Source, ...], ...] = ()

    def as_in(self, tensors: Container[str]) -> Parameter:
        """The parameter in the form that these are, or are nearest to."""
        forms = (self.sources, *self.others)
        best = max(forms, key=lambda form: sum(source.tensor in tensors for source in form) / len(form))
        return replace(self, sources=best, others=())


@dataclass
class ParameterList:
    """Collects the parameters of a network while it is built."""

    dtype: str
    parameters: dict[str, Parameter] = field(default_factory=dict)

    def add(
        self, name: str, sources: Tensors, *, others: Sequence[Tensors] = (), stack: int | None = None
    ) -> WeightRef:
        """A parameter made of these checkpoint tensors, their rows one after the other.

        others  the same rows as other checkpoints have them
        stack   the rows are those of so many equal matrices: the parameter is [stack, N, K]
        """
        placed = _place(sources)
        rows = sum(source.num_rows for source in placed)
        shape = (rows, *sources[0][1][-1:]) if len(sources[0][1]) > 1 else (rows,)
        if stack is not None:
            assert rows % stack == 0, name
            shape = (stack, rows // stack, *shape[1:])
        ref = WeightRef(name, shape, self.dtype)
        assert name not in self.parameters, name
        self.parameters[name] = Parameter(ref, placed, tuple(_place(form) for form in others))
        return ref


def num_rows(shape: Sequence[int]) -> int:
    """Rows of a tensor: entries of a vector, of anything else whatever all axes but the last count."""
    return math.prod(shape[:-1]) if len(shape) > 1 else shape[0]


def _place(tensors: Tensors) -> tuple[Source, ...]:
    placed: list[Source] = []
    start = 0
    for tensor, shape in tensors:
        placed.append(Source(tensor, shape, start))
        start += placed[-1].num_rows
    return tuple(placed)
