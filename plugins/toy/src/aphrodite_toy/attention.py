"""Attention over the toy's KV layout: a plan made once a step, and the kernel that works it off in every layer.

meta  [1 + 4 S] i32:  [count | item 0: sequence, first token, tokens, length | item 1 ... | undefined]
Sequences without new tokens, padding among them, are no items.
"""

from __future__ import annotations

import torch

from aphrodite.plugin import KVView

PLAN = "toy.attn_plan"
META_WORDS, META_WORDS_A_SEQ = 1, 4


def plan(meta: torch.Tensor, seq_lens: torch.Tensor, cu_q: torch.Tensor) -> None:
    """attn_plan@1: which sequences have work, as items."""
    num_new = cu_q.diff()
    items = torch.stack((torch.arange(len(seq_lens), dtype=torch.int32), cu_q[:-1], num_new, seq_lens), 1)[num_new > 0]
    meta[0] = len(items)
    meta[1 : 1 + items.numel()] = items.flatten()


def attend(
    out: torch.Tensor,
    q: torch.Tensor,
    cache: KVView,
    tables: torch.Tensor,
    seq_lens: torch.Tensor,
    cu_q: torch.Tensor,
    meta: torch.Tensor,
    scale: float,
    causal: bool = True,
    window: int = 0,
) -> None:
    """attn_paged@1, item by item from meta; seq_lens and cu_q are in it already. Rows of padding stay as they are."""
    count = int(meta[0])
    for seq, first, num_new, length in meta[1 : 1 + META_WORDS_A_SEQ * count].view(count, META_WORDS_A_SEQ).tolist():
        # No query sees a key before `start`: its block may be another sequence's by now, and is not read.
        start = max(0, length - num_new - window + 1) if window else 0
        skipped = start // cache.block_size
        blocks = tables[seq, skipped : -(-length // cache.block_size)].long()
        held = slice(start - skipped * cache.block_size, length - skipped * cache.block_size)
        k, v = _gather(cache.k, blocks)[held], _gather(cache.v, blocks)[held]
        rows = slice(first, first + num_new)
        seen = _seen(num_new, length, causal, window)[:, start:]
        out[rows] = _softmax_attention(q[rows].float() * scale, k, v, seen).to(out.dtype)


def _gather(storage: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """[token, head, dim, block] and n block ids -> [n * token, head, dim] float32, in the sequence's order."""
    return storage.index_select(3, blocks).permute(3, 0, 1, 2).flatten(0, 1).float()


def _seen(num_new: int, length: int, causal: bool, window: int) -> torch.Tensor:
    """[new token, key]: whether the one sees the other."""
    position, key = torch.arange(length - num_new, length)[:, None], torch.arange(length)
    seen = key <= position if causal else torch.ones(num_new, length, dtype=torch.bool)
    return seen & (key > position - window) if window else seen


def _softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """q [Q, Hq, D], k and v [L, Hk, D] -> [Q, Hq, D]; heads [h * G, (h + 1) * G) of q share head h of k and v."""
    grouped = q.unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("qhgd,lhd->hgql", grouped, k).masked_fill(~seen, -torch.inf)
    return torch.einsum("hgql,lhd->qhgd", scores.softmax(-1), v).flatten(1, 2)
