"""Linear layers: one product, whatever number of checkpoint matrices it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aphrodite.ops import linear as ops
from aphrodite.program.parameters import ParameterList
from aphrodite.program.trace import Tracer
from aphrodite.program.values import Value, WeightRef


@dataclass(frozen=True)
class Linear:
    """y = x w^T + b."""

    site: str
    weight: WeightRef
    bias: WeightRef | None = None

    @classmethod
    def stacked(
        cls, params: ParameterList, site: str, sources: Sequence[tuple[str, int]], inputs: int, *, bias: bool
    ) -> Linear:
        """The checkpoint's (name, output size) matrices side by side, as one."""
        weight = params.add(f"{site}.weight", [(f"{name}.weight", (size, inputs)) for name, size in sources])
        vector = None
        if bias:
            vector = params.add(f"{site}.bias", [(f"{name}.bias", (size,)) for name, size in sources])
        return cls(site, weight, vector)

    def __call__(self, t: Tracer, x: Value) -> Value:
        """x [T, K] -> [T, N]"""
        y: Value = t.call(ops.linear, self.site, x=x, w=self.weight, bias=self.bias)
        return y

    def into(self, t: Tracer, x: Value, out: Value) -> None:
        """The same, into a value that is there already."""
        t.call(ops.linear, self.site, out=out, x=x, w=self.weight, bias=self.bias)
