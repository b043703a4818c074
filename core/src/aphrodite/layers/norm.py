"""RMS normalisation, alone or behind a residual addition."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.ops import norm as ops
from aphrodite.program.parameters import ParameterList
from aphrodite.program.trace import Tracer
from aphrodite.program.values import Value, WeightRef


@dataclass(frozen=True)
class RMSNorm:
    """x / rms(x) * w."""

    site: str
    weight: WeightRef
    eps: float

    @classmethod
    def of(cls, params: ParameterList, site: str, source: str, size: int, eps: float) -> RMSNorm:
        return cls(site, params.add(f"{site}.weight", [(f"{source}.weight", (size,))]), eps)

    def __call__(self, t: Tracer, x: Value) -> Value:
        """x [T, H] -> a new [T, H]"""
        y: Value = t.call(ops.rms_norm, self.site, x=x, w=self.weight, eps=self.eps)
        return y

    def after_add(self, t: Tracer, x: Value, residual: Value) -> Value:
        """residual += x, then the norm of it, in x's memory; two calls that `add_rms_norm` serves as one."""
        t.call(ops.add, f"{self.site}.add", res=residual, x=x)
        t.call(ops.rms_norm, self.site, out=x, x=residual, w=self.weight, eps=self.eps)
        return x
