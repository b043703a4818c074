"""Rotary embedding and what else is elementwise: torch's own operations, in place and a few tokens at a time."""

from __future__ import annotations

import torch

from aphrodite.plugin import PORTABLE, C, Flag, Kernel

_TOKENS = 256  # of a block: what is read, written and held meanwhile stays in cache


def rope(q: torch.Tensor, k: torch.Tensor, pos: torch.Tensor, cos_sin: torch.Tensor, style: str) -> None:
    """rope@1"""
    width = cos_sin.shape[1]
    for start in range(0, len(pos), _TOKENS):
        cos, sin = cos_sin.index_select(0, pos[start : start + _TOKENS])[:, None].chunk(2, -1)
        for x in (q, k):
            part = x[start : start + _TOKENS, :, :width]
            a, b = (part[..., 0::2], part[..., 1::2]) if style == "gptj" else part.chunk(2, -1)
            one, other = a * cos, b * cos  # float32, whatever is stored
            one -= b * sin
            other += a * sin
            a.copy_(one)
            b.copy_(other)


ROPE = Kernel(
    "rope@1",
    "cpu.rope",
    fn=rope,
    where=C(dtype={"f32", "bf16", "f16"}),
    tier=PORTABLE,
    flags=Flag.ALLOCATES | Flag.RUN_STABLE | Flag.BATCH_INVARIANT | Flag.SHAPE_STABLE,
)
