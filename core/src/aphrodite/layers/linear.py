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
        cls,
        params: ParameterList,
        site: str,
        sources: Sequence[tuple[str, int]],
        inputs: int,
        *,
        bias: bool,
        whole: str | None = None,
    ) -> Linear:
        """The checkpoint's (name, output size) matrices side by side, as one; `whole` names them where it holds one."""

        def add(part: str, inner: tuple[int, ...]) -> WeightRef:
            tensors = [(f"{name}.{part}", (size, *inner)) for name, size in sources]
            rows = sum(size for _, size in sources)
            others = [] if whole is None else [[(f"{whole}.{part}", (rows, *inner))]]
            return params.add(f"{site}.{part}", tensors, others=others)

        return cls(site, add("weight", (inputs,)), add("bias", ()) if bias else None)

    def __call__(self, t: Tracer, x: Value) -> Value:
        """x [T, K] -> [T, N]"""
        y: Value = t.call(ops.linear, self.site, x=x, w=self.weight, bias=self.bias)
        return y

    def into(self, t: Tracer, x: Value, out: Value) -> None:
        """The same, into a value that is there already."""
        t.call(ops.linear, self.site, out=out, x=x, w=self.weight, bias=self.bias)
