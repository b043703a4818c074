"""Activations, gated and not."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from aphrodite.ops.composite import Recorder, composite
from aphrodite.ops.linear import linear
from aphrodite.ops.numeric import generator, wide
from aphrodite.ops.op import Example, op
from aphrodite.platform.dtypes import torch_dtype


def _silu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def _gelu_erf(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.gelu(gate) * up


def _gelu_tanh(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.gelu(gate, approximate="tanh") * up


def _swiglu_oai(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1.0)


KINDS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "silu": _silu,
    "gelu_erf": _gelu_erf,
    "gelu_tanh": _gelu_tanh,
    "swiglu_oai": _swiglu_oai,
}


def _examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    for kind, (t, i) in itertools.product(KINDS, ((0, 8), (1, 1), (3, 100), (17, 384))):
        x = (torch.randn(t, 2 * i, generator=g) * 4).to(torch_dtype(dtype))
        args = {"out": torch.empty(t, i, dtype=x.dtype), "x": x, "kind": kind}
        yield Example(f"{kind} T={t} I={i}", args)


@op("act_mul@1", "out[T,I] A!, x[T,I2] A, kind: str", examples=_examples)
def act_mul(out: torch.Tensor, x: torch.Tensor, kind: str) -> None:
    """out <- act(x[:, :I]) * x[:, I:], the halves side by side (I2 = 2 I), in float32 and rounded once.

    kind  silu, gelu_erf, gelu_tanh; swiglu_oai: gate clamped to <= 7, up to [-7, 7], gate sigmoid(1.702 gate) (up + 1)
    Source: Shazeer 2020 (GLU variants); swiglu_oai as published with gpt-oss.
    """
    gate, up = wide(x).chunk(2, dim=-1)
    out.copy_(KINDS[kind](gate, up))


ALONE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu_erf": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


def _alone_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    for kind, (t, i) in itertools.product(ALONE, ((0, 8), (1, 1), (3, 100), (17, 384))):
        x = (torch.randn(t, i, generator=g) * 4).to(torch_dtype(dtype))
        yield Example(f"{kind} T={t} I={i}", {"x": x, "kind": kind})


@op("act@1", "x[T,I] A!, kind: str", examples=_alone_examples)
def act(x: torch.Tensor, kind: str) -> None:
    """x <- act(x) in place, in float32 and rounded once; kind: silu, gelu_erf, gelu_tanh or relu."""
    x.copy_(ALONE[kind](wide(x)))


@composite("gate_up_act@1", "out[M,I] A!, x[M,K] A, w[N,K] Packed A, bias[N] A?, kind: str")
def gate_up_act(t: Recorder, out: object, x: object, w: object, bias: object, kind: object) -> None:
    """out <- act(gate) * up where [gate, up] = x w^T + bias: the product need not reach memory (N = 2 I)."""
    gate_up = t.call(linear, "", x=x, w=w, bias=bias)
    t.call(act_mul, "", out=out, x=gate_up, kind=kind)
