"""Rotary position embedding. Every scaling is baked into the table, so that kernels know none."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aphrodite.ops.numeric import generator, wide
from aphrodite.ops.op import Example, op
from aphrodite.platform.dtypes import torch_dtype


def _examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    kind = torch_dtype(dtype)
    for t, hq, hk, d, rd, style in (
        (0, 2, 1, 8, 8, "neox"),
        (5, 4, 2, 16, 16, "gptj"),
        (9, 3, 3, 20, 12, "neox"),
    ):
        angle = torch.rand(64, rd // 2, generator=g) * 6.3
        args = {
            "q": torch.randn(t, hq, d, generator=g).to(kind),
            "k": torch.randn(t, hk, d, generator=g).to(kind),
            "pos": torch.randint(0, 64, (t,), generator=g),
            "cos_sin": torch.cat((angle.cos(), angle.sin()), -1),
            "style": style,
        }
        yield Example(f"T={t} Hq={hq} Hk={hk} D={d} Rd={rd} {style}", args)


@op("rope@1", "q[T,Hq,D] A!, k[T,Hk,D] A!, pos[T] i64, cos_sin[P,Rd] f32, style: str", examples=_examples, exact=True)
def rope(q: torch.Tensor, k: torch.Tensor, pos: torch.Tensor, cos_sin: torch.Tensor, style: str) -> None:
    """Rotate the first Rd of D in place by the angles of each token's position.

    cos_sin  [P, Rd]: cosines of the Rd / 2 frequencies, then their sines
    style    neox pairs dimension i with i + Rd / 2, gptj pairs 2i with 2i + 1
    Source: Su et al. 2021 (RoFormer), equation 34.
    """
    cos, sin = cos_sin[pos].unsqueeze(1).chunk(2, dim=-1)
    for x in (q, k):
        part = x[..., : cos_sin.shape[-1]]
        a, b = (part[..., 0::2], part[..., 1::2]) if style == "gptj" else part.chunk(2, dim=-1)
        af, bf = wide(a), wide(b)
        ra, rb = af * cos - bf * sin, bf * cos + af * sin
        a.copy_(ra)
        b.copy_(rb)
