"""Parameters as a network declares them: a name, a shape, and which checkpoint tensors fill which rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from aphrodite.program.values import WeightRef


@dataclass(frozen=True)
class Source:
    """Rows [start, start + shape[0]) of a parameter come from the checkpoint tensor `tensor` of this shape."""

    tensor: str
    shape: tuple[int, ...]
    start: int = 0


@dataclass(frozen=True)
class Parameter:
    """A parameter and its sources, which cover its rows without overlap."""

    ref: WeightRef
    sources: tuple[Source, ...]


@dataclass
class ParameterList:
    """Collects the parameters of a network while it is built."""

    dtype: str
    parameters: dict[str, Parameter] = field(default_factory=dict)

    def add(self, name: str, sources: list[tuple[str, tuple[int, ...]]]) -> WeightRef:
        """A parameter made of these checkpoint tensors, stacked along their first axis."""
        placed: list[Source] = []
        rows = 0
        for tensor, shape in sources:
            placed.append(Source(tensor, shape, rows))
            rows += shape[0]
        ref = WeightRef(name, (rows, *sources[0][1][1:]), self.dtype)
        assert name not in self.parameters, name
        self.parameters[name] = Parameter(ref, tuple(placed))
        return ref
