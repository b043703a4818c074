"""Normalisation, and the residual addition that goes before it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aphrodite.ops.composite import Recorder, composite
from aphrodite.ops.numeric import generator, wide
from aphrodite.ops.op import Example, op
from aphrodite.platform.dtypes import torch_dtype


def _add_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    for t, h in ((0, 64), (1, 1), (3, 100), (17, 576)):
        args = {name: torch.randn(t, h, generator=g).to(torch_dtype(dtype)) for name in ("res", "x")}
        yield Example(f"T={t} H={h}", args)


@op("add@1", "res[T,H] A!, x[T,H] A", examples=_add_examples, exact=True)
def add(res: torch.Tensor, x: torch.Tensor) -> None:
    """Residual addition: res <- res + x, rounded once to A."""
    res.add_(x)


def _norm_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    for t, h, scale, offset in ((0, 64, 1.0, 0), (1, 1, 1.0, 0), (3, 100, 1e-3, 1), (17, 576, 30.0, 0)):
        x = (torch.randn(t, h, generator=g) * scale).to(torch_dtype(dtype))
        w = torch.randn(h, generator=g).to(torch_dtype(dtype))
        args = {"out": torch.empty_like(x), "x": x, "w": w, "eps": 1e-5, "offset": offset}
        yield Example(f"T={t} H={h} scale={scale} offset={offset}", args)


@op(
    "rms_norm@1",
    "out[T,H] A!, x[T,H] A, w[H] A, eps: float, offset: int = 0",
    examples=_norm_examples,
    aliases=(("out", "x"),),
)
def rms_norm(out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, eps: float, offset: int = 0) -> None:
    """out <- x / sqrt(mean(x^2) + eps) * (w + offset), in float32 and rounded once. out may be x.

    Source: Zhang and Sennrich 2019, equation 4; offset 1 is Gemma's form.
    """
    xf = wide(x)
    scale = torch.rsqrt(xf.square().mean(-1, keepdim=True) + eps)
    out.copy_(xf * scale * (wide(w) + offset))


@composite("add_rms_norm@1", "x[T,H] A!, res[T,H] A!, w[H] A, eps: float, offset: int = 0")
def add_rms_norm(t: Recorder, x: object, res: object, w: object, eps: object, offset: object) -> None:
    """res <- res + x rounded to A, then x <- rms_norm(res): one pass over both rows instead of two."""
    t.call(add, "", res=res, x=x)
    t.call(rms_norm, "", out=x, x=res, w=w, eps=eps, offset=offset)


def _layer_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    kind = torch_dtype(dtype)
    for t, h, centre, biased in ((0, 64, 0.0, False), (1, 2, 0.0, True), (3, 100, 5.0, True), (17, 576, 0.0, False)):
        x = (torch.randn(t, h, generator=g) + centre).to(kind)
        args: dict[str, object] = {
            "out": torch.empty_like(x),
            "x": x,
            "w": torch.randn(h, generator=g).to(kind),
            "b": torch.randn(h, generator=g).to(kind) if biased else None,
            "eps": 1e-5,
        }
        yield Example(f"T={t} H={h} centre={centre} bias={biased}", args)


@op(
    "layer_norm@1",
    "out[T,H] A!, x[T,H] A, w[H] A, b[H] A?, eps: float",
    examples=_layer_examples,
    aliases=(("out", "x"),),
)
def layer_norm(out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, eps: float, b: torch.Tensor | None = None) -> None:
    """out <- (x - mean(x)) / sqrt(var(x) + eps) * w + b, in float32 and rounded once. out may be x.

    var is the mean of squares about the mean. Source: Ba et al. 2016, section 3.
    """
    y = _standardised(wide(x), eps) * wide(w)
    out.copy_(y if b is None else y + wide(b))


def _standardised(x: torch.Tensor, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)


def _head_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    for t, n, d, scale, offset in ((0, 2, 8, 1.0, 0), (1, 1, 1, 1.0, 0), (5, 3, 20, 1e-3, 1), (9, 4, 64, 30.0, 0)):
        kind = torch_dtype(dtype)
        x = (torch.randn(t, n, d, generator=g) * scale).to(kind)
        args = {"x": x, "w": torch.randn(d, generator=g).to(kind), "eps": 1e-6, "offset": offset}
        yield Example(f"T={t} N={n} D={d} scale={scale} offset={offset}", args)


@op("head_norm@1", "x[T,N,D] A!, w[D] A, eps: float, offset: int = 0", examples=_head_examples)
def head_norm(x: torch.Tensor, w: torch.Tensor, eps: float, offset: int = 0) -> None:
    """rms_norm of every head alone, in place: x is a view of the packed q, k and v, heads side by side.

    Source: Henry et al. 2020 (query-key normalisation); Dehghani et al. 2023, section 2.
    """
    xf = wide(x)
    scale = torch.rsqrt(xf.square().mean(-1, keepdim=True) + eps)
    x.copy_(xf * scale * (wide(w) + offset))


def _head_layer_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    kind = torch_dtype(dtype)
    for t, n, d in ((0, 2, 8), (1, 1, 2), (5, 3, 20), (9, 4, 64)):
        x, w = (torch.randn(*shape, generator=g).to(kind) for shape in ((t, n, d), (n, d)))
        yield Example(f"T={t} N={n} D={d}", {"x": x, "w": w, "eps": 1e-5})


@op("head_layer_norm@1", "x[T,N,D] A!, w[N,D] A, eps: float", examples=_head_layer_examples)
def head_layer_norm(x: torch.Tensor, w: torch.Tensor, eps: float) -> None:
    """layer_norm of every head alone, without bias and with weights of its own, in place: x is a view of q, k and v.

    Source: the config field use_qk_norm of Cohere's Command R+.
    """
    x.copy_(_standardised(wide(x), eps) * wide(w))
