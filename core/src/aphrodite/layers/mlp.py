"""Feed-forward layers, gated and plain."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.layers.linear import Linear
from aphrodite.ops import activation as ops
from aphrodite.program.parameters import ParameterList
from aphrodite.program.trace import Tracer
from aphrodite.program.values import Value


@dataclass(frozen=True)
class MLPNames:
    """Where a checkpoint keeps a feed-forward layer's matrices, within the layer.

    gate_up  of checkpoints that hold gate and up as one matrix; "" where there are none
    """

    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    gate_up: str = ""


@dataclass(frozen=True)
class GatedMLP:
    """down(act(gate(x)) * up(x)), gate and up as one product."""

    site: str
    gate_up: Linear
    down: Linear
    kind: str

    @classmethod
    def of(
        cls,
        params: ParameterList,
        site: str,
        source: str,
        *,
        names: MLPNames,
        hidden: int,
        inner: int,
        kind: str,
        bias: bool,
    ) -> GatedMLP:
        halves = [(f"{source}.{name}", inner) for name in (names.gate, names.up)]
        whole = f"{source}.{names.gate_up}" if names.gate_up else None
        gate_up = Linear.stacked(params, f"{site}.gate_up", halves, hidden, bias=bias, whole=whole)
        down = Linear.stacked(params, f"{site}.down", [(f"{source}.{names.down}", hidden)], inner, bias=bias)
        return cls(site, gate_up, down, kind)

    def __call__(self, t: Tracer, x: Value) -> Value:
        """x [T, H] -> [T, H]"""
        gate_up = self.gate_up(t, x)
        inner = gate_up.shape[1]
        assert isinstance(inner, int)
        y = t.call(ops.act_mul, f"{self.site}.act", x=gate_up, kind=self.kind, sizes={"I": inner // 2})
        return self.down(t, y)


@dataclass(frozen=True)
class PlainMLP:
    """down(act(up(x)))."""

    site: str
    up: Linear
    down: Linear
    kind: str

    @classmethod
    def of(
        cls,
        params: ParameterList,
        site: str,
        source: str,
        *,
        names: MLPNames,
        hidden: int,
        inner: int,
        kind: str,
        bias: bool,
    ) -> PlainMLP:
        up = Linear.stacked(params, f"{site}.up", [(f"{source}.{names.up}", inner)], hidden, bias=bias)
        down = Linear.stacked(params, f"{site}.down", [(f"{source}.{names.down}", hidden)], inner, bias=bias)
        return cls(site, up, down, kind)

    def __call__(self, t: Tracer, x: Value) -> Value:
        """x [T, H] -> [T, H]"""
        y = self.up(t, x)
        t.call(ops.act, f"{self.site}.act", x=y, kind=self.kind)
        return self.down(t, y)
