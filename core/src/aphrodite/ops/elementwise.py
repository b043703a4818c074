"""Functions of single elements that no neighbouring operation takes in: a factor, and a soft bound."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aphrodite.ops.numeric import generator, wide
from aphrodite.ops.op import Example, op
from aphrodite.platform.dtypes import torch_dtype


def _scale_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    for t, h, factor in ((0, 64, 8.0), (1, 1, 0.5), (3, 100, 55.5), (17, 576, 24.0)):
        yield Example(
            f"T={t} H={h} factor={factor}",
            {"x": torch.randn(t, h, generator=g).to(torch_dtype(dtype)), "factor": factor},
        )


@op("scale@1", "x[T,H] A!, factor: float", examples=_scale_examples, exact=True)
def scale(x: torch.Tensor, factor: float) -> None:
    """x <- factor x in place, rounded once to A. A factor that must itself be an A is one already."""
    x.copy_(wide(x) * factor)


def _softcap_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    for m, n, cap, spread in ((0, 64, 30.0, 1.0), (1, 1, 5.0, 9.0), (3, 100, 30.0, 100.0), (17, 320, 2.0, 1.0)):
        x = (torch.randn(m, n, generator=g) * spread).to(torch_dtype(dtype))
        yield Example(f"M={m} N={n} cap={cap} spread={spread}", {"x": x, "cap": cap})


@op("softcap@1", "x[M,N] A!, cap: float", examples=_softcap_examples)
def softcap(x: torch.Tensor, cap: float) -> None:
    """x <- cap tanh(x / cap) in place, in float32 and rounded once: everything ends up between -cap and cap.

    Source: Gemma Team 2024 (Gemma 2), section 2.
    """
    x.copy_(cap * torch.tanh(wide(x) / cap))
