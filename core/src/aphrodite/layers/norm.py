"""Normalisation, alone or behind a residual addition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from aphrodite.ops import norm as ops
from aphrodite.ops.op import Op
from aphrodite.program.parameters import ParameterList
from aphrodite.program.trace import Tracer
from aphrodite.program.values import Value, WeightRef

RMS, LAYER = "rms", "layer"


@dataclass(frozen=True)
class NormForm:
    """What the norms of a network have in common.

    offset  added to the weights, 0 or 1; of RMS only
    kind    RMS, or LAYER: about the mean as well
    bias    of LAYER only
    """

    eps: float
    offset: int = 0
    kind: str = RMS
    bias: bool = False


class Norm(Protocol):
    """A norm of rows."""

    def __call__(self, t: Tracer, x: Value) -> Value:
        """x [T, H] -> a new [T, H]"""
        ...

    def in_place(self, t: Tracer, x: Value) -> Value:
        """The same in x's memory."""
        ...

    def after_add(self, t: Tracer, x: Value, residual: Value) -> Value:
        """residual += x, then the norm of it, in x's memory."""
        ...


class HeadNorm(Protocol):
    """A norm of heads."""

    def each_head(self, t: Tracer, x: Value) -> None:
        """x [T, N, D]: every head alone, in place."""
        ...


@dataclass(frozen=True)
class RMSNorm:
    """x / rms(x) * (w + offset). `after_add` is two calls that `add_rms_norm` serves as one."""

    site: str
    weight: WeightRef
    form: NormForm

    @classmethod
    def of(cls, params: ParameterList, site: str, source: str, size: int, form: NormForm) -> RMSNorm:
        return cls(site, params.add(f"{site}.weight", [(f"{source}.weight", (size,))]), form)

    def __call__(self, t: Tracer, x: Value) -> Value:
        y: Value = self._call(t, ops.rms_norm, x=x)
        return y

    def in_place(self, t: Tracer, x: Value) -> Value:
        self._call(t, ops.rms_norm, out=x, x=x)
        return x

    def after_add(self, t: Tracer, x: Value, residual: Value) -> Value:
        t.call(ops.add, f"{self.site}.add", res=residual, x=x)
        self._call(t, ops.rms_norm, out=x, x=residual)
        return x

    def each_head(self, t: Tracer, x: Value) -> None:
        self._call(t, ops.head_norm, x=x)

    def _call(self, t: Tracer, op: Op, **values: Any) -> Any:
        return t.call(op, self.site, w=self.weight, eps=self.form.eps, offset=self.form.offset, **values)


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean(x)) / std(x) * w + b."""

    site: str
    weight: WeightRef
    bias: WeightRef | None
    form: NormForm

    @classmethod
    def of(cls, params: ParameterList, site: str, source: str, size: int, form: NormForm) -> LayerNorm:
        weight = params.add(f"{site}.weight", [(f"{source}.weight", (size,))])
        bias = params.add(f"{site}.bias", [(f"{source}.bias", (size,))]) if form.bias else None
        return cls(site, weight, bias, form)

    def __call__(self, t: Tracer, x: Value) -> Value:
        y: Value = self._call(t, x=x)
        return y

    def in_place(self, t: Tracer, x: Value) -> Value:
        self._call(t, out=x, x=x)
        return x

    def after_add(self, t: Tracer, x: Value, residual: Value) -> Value:
        t.call(ops.add, f"{self.site}.add", res=residual, x=x)
        self._call(t, out=x, x=residual)
        return x

    def _call(self, t: Tracer, **values: Any) -> Any:
        return t.call(ops.layer_norm, self.site, w=self.weight, b=self.bias, eps=self.form.eps, **values)


@dataclass(frozen=True)
class HeadLayerNorm:
    """LayerNorm without bias of every head, each with weights of its own."""

    site: str
    weight: WeightRef
    form: NormForm

    @classmethod
    def of(
        cls, params: ParameterList, site: str, source: str, num_heads: int, head_dim: int, form: NormForm
    ) -> HeadLayerNorm:
        return cls(site, params.add(f"{site}.weight", [(f"{source}.weight", (num_heads, head_dim))]), form)

    def each_head(self, t: Tracer, x: Value) -> None:
        t.call(ops.head_layer_norm, self.site, x=x, w=self.weight, eps=self.form.eps)


def norm_of(params: ParameterList, site: str, source: str, size: int, form: NormForm) -> Norm:
    """A norm of rows of the form's kind, from the checkpoint's tensors `source`."""
    kind = LayerNorm if form.kind == LAYER else RMSNorm
    return kind.of(params, site, source, size, form)


def head_norm_of(
    params: ParameterList, site: str, source: str, num_heads: int, head_dim: int, form: NormForm
) -> HeadNorm:
    """A norm of heads: of RMS all heads share weights, of LAYER each has its own."""
    if form.kind == LAYER:
        return HeadLayerNorm.of(params, site, source, num_heads, head_dim, form)
    return RMSNorm.of(params, site, source, head_dim, form)
