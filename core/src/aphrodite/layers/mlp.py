"""The gated feed-forward layer."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.layers.linear import Linear
from aphrodite.ops import activation as ops
from aphrodite.program.parameters import ParameterList
from aphrodite.program.trace import Tracer
from aphrodite.program.values import Value


@dataclass(frozen=True)
class GatedMLP:
    """down(act(gate(x)) * up(x)), gate and up as one product."""

    site: str
    gate_up: Linear
    down: Linear
    kind: str

    @classmethod
    def of(
        cls, params: ParameterList, site: str, source: str, *, hidden: int, inner: int, kind: str, bias: bool
    ) -> GatedMLP:
        halves = [(f"{source}.gate_proj", inner), (f"{source}.up_proj", inner)]
        gate_up = Linear.stacked(params, f"{site}.gate_up", halves, hidden, bias=bias)
        down = Linear.stacked(params, f"{site}.down", [(f"{source}.down_proj", hidden)], inner, bias=bias)
        return cls(site, gate_up, down, kind)

    def __call__(self, t: Tracer, x: Value) -> Value:
        """x [T, H] -> [T, H]"""
        gate_up = self.gate_up(t, x)
        inner = gate_up.shape[1]
        assert isinstance(inner, int)
        y = t.call(ops.act_mul, f"{self.site}.act", x=gate_up, kind=self.kind, sizes={"I": inner // 2})
        return self.down(t, y)
