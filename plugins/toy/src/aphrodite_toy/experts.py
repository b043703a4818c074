"""moe_experts@1 over weights in columns: one pair of token and expert at a time, as a device without sorting would."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from aphrodite.plugin import Packed


def experts(
    out: torch.Tensor, x: torch.Tensor, w13: Packed, w2: Packed, wts: torch.Tensor, ids: torch.Tensor, kind: str
) -> None:
    """`kind` is an argument because the operation has it, and always "silu" by the constraint. Of a stack, expert e's
    storage is data[e], in columns like that of any matrix."""
    total = torch.zeros(out.shape, dtype=torch.float32)
    for token, chosen in enumerate(ids.tolist()):
        for weight, expert in zip(wts[token], chosen, strict=True):
            gate, up = (x[token].float() @ w13.data[expert].float()).chunk(2)
            total[token] += weight * ((F.silu(gate) * up) @ w2.data[expert].float())
    out.copy_(total)
