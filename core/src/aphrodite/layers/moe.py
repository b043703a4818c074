"""Mixtures of experts in the place of a feed-forward layer."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.layers.linear import Linear
from aphrodite.ops import moe as ops
from aphrodite.program.parameters import ParameterList
from aphrodite.program.trace import Tracer
from aphrodite.program.values import Value, WeightRef


@dataclass(frozen=True)
class ExpertNames:
    """Where a checkpoint keeps a mixture of experts, within the layer; {} is the expert's number.

    fused_router, fused_gate_up, fused_down  of checkpoints that hold each matrix of all experts as one tensor
    """

    router: str = "mlp.gate"
    gate: str = "mlp.experts.{}.gate_proj"
    up: str = "mlp.experts.{}.up_proj"
    down: str = "mlp.experts.{}.down_proj"
    fused_router: str = "mlp.gate"
    fused_gate_up: str = "mlp.experts.gate_up_proj"
    fused_down: str = "mlp.experts.down_proj"


@dataclass(frozen=True)
class Routing:
    """How a token's experts are chosen: see moe_route."""

    num_experts: int
    top_k: int
    scoring: str = "softmax"
    renorm: bool = True


@dataclass(frozen=True)
class Experts:
    """A token's top_k experts, each a gated layer, weighed by the router. Each matrix of all experts is one stack."""

    site: str
    router: Linear
    gate_up: WeightRef
    down: WeightRef
    routing: Routing
    kind: str

    @classmethod
    def of(
        cls,
        params: ParameterList,
        site: str,
        source: str,
        *,
        names: ExpertNames,
        hidden: int,
        inner: int,
        kind: str,
        routing: Routing,
    ) -> Experts:
        count = routing.num_experts

        def stack(part: str, fused: str, shape: tuple[int, int], *each: str) -> WeightRef:
            rows = (shape[0] // len(each), shape[1])
            single = [(f"{source}.{name.format(number)}.weight", rows) for number in range(count) for name in each]
            whole = [(f"{source}.{fused}", (count, *shape))]
            return params.add(f"{site}.{part}.weight", single, others=[whole], stack=count)

        router = [(f"{source}.{names.router}", count)]
        return cls(
            site,
            Linear.stacked(
                params, f"{site}.router", router, hidden, bias=False, whole=f"{source}.{names.fused_router}"
            ),
            stack("gate_up", names.fused_gate_up, (2 * inner, hidden), names.gate, names.up),
            stack("down", names.fused_down, (hidden, inner), names.down),
            routing,
            kind,
        )

    def __call__(self, t: Tracer, x: Value) -> Value:
        """x [T, H] -> [T, H]"""
        logits = self.router(t, x)
        wts, ids = t.call(
            ops.moe_route,
            f"{self.site}.route",
            sizes={"k": self.routing.top_k},
            logits=logits,
            scoring=self.routing.scoring,
            renorm=self.routing.renorm,
        )
        y: Value = t.call(
            ops.moe_experts,
            f"{self.site}.experts",
            x=x,
            w13=self.gate_up,
            w2=self.down,
            wts=wts,
            ids=ids,
            kind=self.kind,
        )
        return y
