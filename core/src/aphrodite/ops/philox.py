"""Philox 4x32-10, the counter-based generator behind every draw.

A number depends on its key and counter alone, so a draw is the same on every device, in any batch and after any
preemption. Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.3.
"""

from __future__ import annotations

import torch

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: tuple[torch.Tensor, ...], key: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Four words of 32 random bits from four counter words and two key words, all in int64 tensors."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap, but their low 64 bits, and so both halves, are right
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _LOW) ^ c1 ^ k0, p1 & _LOW, ((p0 >> 32) & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def random_words(
    seed: torch.Tensor, position: torch.Tensor, child: torch.Tensor, stage: int, vocab: int
) -> torch.Tensor:
    """[R, vocab] words of 32 random bits: key = seed, counter = (vocabulary index / 4, position, child, stage).

    seed [R] i64, position [R] i64, child [R] i32
    """
    quads = torch.arange(-(-vocab // 4), device=seed.device).expand(seed.shape[0], -1)

    def column(word: torch.Tensor) -> torch.Tensor:
        return (word.long() & _LOW)[:, None].expand_as(quads)

    key = (column(seed), column(seed >> 32))
    words = philox((quads, column(position), column(child), torch.full_like(quads, stage)), key)
    return torch.stack(words, -1).flatten(1)[:, :vocab]
