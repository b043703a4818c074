"""RMS normalisation, alone or behind a residual addition."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.ops import norm as ops
from aphrodite.program.parameters import ParameterList
from aphrodite.program.trace import Tracer
from aphrodite.program.values import Value, WeightRef


@dataclass(frozen=True)
class NormForm:
    """What the norms of a network have in common: eps, and an offset that is added to the weights (0 or 1)."""

    eps: float
    offset: int = 0


@dataclass(frozen=True)
class RMSNorm:
    """x / rms(x) * (w + offset)."""

    site: str
    weight: WeightRef
    form: NormForm

    @classmethod
    def of(cls, params: ParameterList, site: str, source: str, size: int, form: NormForm) -> RMSNorm:
        return cls(site, params.add(f"{site}.weight", [(f"{source}.weight", (size,))]), form)

    def __call__(self, t: Tracer, x: Value) -> Value:
        """x [T, H] -> a new [T, H]"""
        y: Value = t.call(ops.rms_norm, self.site, x=x, w=self.weight, eps=self.form.eps, offset=self.form.offset)
        return y

    def in_place(self, t: Tracer, x: Value) -> Value:
        """The same in x's memory."""
        t.call(ops.rms_norm, self.site, out=x, x=x, w=self.weight, eps=self.form.eps, offset=self.form.offset)
        return x

    def each_head(self, t: Tracer, x: Value) -> None:
        """x [T, N, D]: every head alone, in place."""
        t.call(ops.head_norm, self.site, x=x, w=self.weight, eps=self.form.eps, offset=self.form.offset)

    def after_add(self, t: Tracer, x: Value, residual: Value) -> Value:
        """residual += x, then the norm of it, in x's memory; two calls that `add_rms_norm` serves as one."""
        t.call(ops.add, f"{self.site}.add", res=residual, x=x)
        t.call(ops.rms_norm, self.site, out=x, x=residual, w=self.weight, eps=self.form.eps, offset=self.form.offset)
        return x
