"""Products with weight matrices."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aphrodite.ops.numeric import generator, matrix, wide
from aphrodite.ops.op import Example, Tolerance, op
from aphrodite.platform.dtypes import torch_dtype
from aphrodite.platform.layout import PLAIN, Packed


def _examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    kind = torch_dtype(dtype)
    for m, n, k, biased in ((0, 8, 8, False), (1, 1, 1, True), (3, 50, 100, True), (17, 96, 257, False)):
        weight = (torch.randn(n, k, generator=g) / k**0.5).to(kind)
        args: dict[str, object] = {
            "out": torch.empty(m, n, dtype=kind),
            "x": torch.randn(m, k, generator=g).to(kind),
            "w": Packed(weight, PLAIN, (n, k), dtype),
            "bias": torch.randn(n, generator=g).to(kind) if biased else None,
        }
        yield Example(f"M={m} N={n} K={k} bias={biased}", args)


def _portable(out: torch.Tensor, x: torch.Tensor, w: Packed, bias: torch.Tensor | None = None) -> None:
    """The library's product in the storage type: float32 accumulation inside, one rounding or two with a bias."""
    weight = matrix(w)
    if out.dtype != x.dtype:
        out.copy_(torch.nn.functional.linear(x, weight, bias))
    elif bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


@op(
    "linear@1",
    "out[M,N] X!, x[M,K] A, w[N,K] Packed A, bias[N] A?",
    portable=_portable,
    examples=_examples,
    tolerance=Tolerance(c=8.0),
)
def linear(out: torch.Tensor, x: torch.Tensor, w: Packed, bias: torch.Tensor | None = None) -> None:
    """out <- x w^T + bias, accumulated in float32, rounded once; out may be wider than x."""
    y = wide(x) @ wide(matrix(w)).t()
    out.copy_(y if bias is None else y + wide(bias))
