"""Philox 4x32-10 and the noise of draws, in blocks that stay in the processor's cache.

The words are those of sample@1: key = seed, counter = (vocabulary index / 4, position, child, 0), and so are the
roundings. Source: Salmon et al. 2011, section 4.3.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_STAGE = 0
_BLOCK = 1 << 15  # quads for each thread: what torch gives to one, and 256 KB a word


def gumbel(tokens: Tensor, seed: Tensor, position: Tensor, child: Tensor) -> Tensor:
    """The noise of some tokens of each row. tokens [n, W], the others [n] -> [n, W] f32"""
    words = torch.stack(_words(tokens // 4, *_columns(seed, position, child)))
    return _noise(words.gather(0, (tokens % 4)[None])[0].float())


def add_gumbel(scores: Tensor, seed: Tensor, position: Tensor, child: Tensor) -> None:
    """scores [n, V] f32 += the noise of every token."""
    num, vocab = scores.shape
    columns = _columns(seed, position, child)
    quads = -(-vocab // 4)
    block = _BLOCK * torch.get_num_threads()
    rows = max(1, block // quads)
    for top in range(0, num, rows):
        of_rows = [column[top : top + rows] for column in columns]
        for start in range(0, quads, block):
            stop = min(quads, start + block)
            words = _words(torch.arange(start, stop)[None], *of_rows)
            noise = torch.empty(*words[0].shape, 4)
            for index, word in enumerate(words):
                noise[..., index] = word
            part = scores[top : top + rows, 4 * start : 4 * stop]
            part += _noise(noise).flatten(1)[:, : part.shape[1]]


def _columns(seed: Tensor, position: Tensor, child: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[n, 1] each: the two words of the key, and those of the counter that differ from row to row."""
    parts = (seed, seed >> 32, position, child.long())
    low, high, where, lane = ((part & _LOW)[:, None] for part in parts)
    return low, high, where, lane


def _words(quads: Tensor, low: Tensor, high: Tensor, position: Tensor, child: Tensor) -> tuple[Tensor, ...]:
    """Four words of 32 bits in int64 for each quad. The first rounds see what is alike in a row only once."""
    c0, c1, c2, c3 = quads, position, child, torch.full_like(child, _STAGE)
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # wraps, but the low 64 bits are right
        c0, c1 = (p1 >> 32) ^ (c1 ^ low), p1
        c2, c3 = (p0 >> 32) ^ (c3 ^ high), p0
        for word in (c0, c1, c2, c3):
            word &= _LOW  # in place: all four are new
        low, high = (low + _WEYL[0]) & _LOW, (high + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def _noise(words: Tensor) -> Tensor:
    """-log(-log1p(-v)) with v = (word + 0.5) / 2^32, in place."""
    return words.add_(0.5).mul_(2.0**-32).clamp_(max=1.0 - 2.0**-24).neg_().log1p_().neg_().log_().neg_()
