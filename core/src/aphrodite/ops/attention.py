"""Attention over the paged KV cache: writing it, planning a step, attending."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from aphrodite.ops.numeric import generator, wide
from aphrodite.ops.op import Example, Tolerance, op
from aphrodite.platform.dtypes import torch_dtype
from aphrodite.platform.layout import HND, NHD, KVLayout, KVView


def make_cache(layout: KVLayout, blocks: int, size: int, heads: int, dim: int, like: torch.Tensor) -> KVView:
    """A KVView of torch tensors filled with `like`'s values in turn; for examples and tests."""
    storage = torch.zeros(layout.shape(block=blocks, kv=2, token=size, head=heads, dim=dim), dtype=like.dtype)
    storage.view(-1)[: like.numel()] = like.reshape(-1)[: storage.numel()]
    axis = layout.axes.index("kv")
    return KVView(storage.select(axis, 0), storage.select(axis, 1), layout, size)


def _write_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    kind = torch_dtype(dtype)
    for layout, (t, h, d, size) in ((NHD, (0, 1, 8, 4)), (NHD, (9, 2, 20, 16)), (HND, (7, 3, 8, 5))):
        slots = torch.randperm(4 * size, generator=g)[:t] + size
        slots[t // 2 : t // 2 + 1] = -1
        args = {
            "cache": make_cache(layout, 5, size, h, d, torch.randn(10 * size * h * d, generator=g).to(kind)),
            "k": torch.randn(t, h, d, generator=g).to(kind),
            "v": torch.randn(t, h, d, generator=g).to(kind),
            "slots": slots,
        }
        yield Example(f"{layout.name} T={t} Hk={h} D={d} block={size}", args)


@op(
    "kv_write@1",
    "cache[Hk,D,Dv] KVView X!, k[T,Hk,D] A, v[T,Hk,Dv] A, slots[T] i64",
    examples=_write_examples,
    exact=True,
)
def kv_write(cache: KVView, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
    """Store each token's key and value at its slot (block * block_size + offset); slot -1 goes to block 0.

    The storage type is the cache's own.
    """
    keys, values = cache.canonical()
    slot = slots.clamp(min=0)
    block, offset = slot // cache.block_size, slot % cache.block_size
    keys[block, offset] = k.to(keys.dtype)
    values[block, offset] = v.to(values.dtype)


def _zero_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    kind = torch_dtype(dtype)
    for layout, size, count in ((NHD, 4, 0), (NHD, 16, 1), (HND, 5, 4)):
        cache = make_cache(layout, 9, size, 2, 8, torch.randn(18 * size * 2 * 8, generator=g).to(kind))
        blocks = torch.randperm(8, generator=g)[:count].int() + 1
        blocks[2:3] = -1
        yield Example(f"{layout.name} {blocks.tolist()}", {"cache": cache, "blocks": blocks})


@op("zero_blocks@1", "cache[Hk,D,Dv] KVView X!, blocks[U] i32", examples=_zero_examples, exact=True)
def zero_blocks(cache: KVView, blocks: torch.Tensor) -> None:
    """Zero all that these blocks hold; -1 stands for block 0. Blocks that held NaN are zeroed before they are used
    again: attention does not read what a sequence has not written, and does not have to be trusted in that."""
    block = blocks.clamp(min=0).long()
    for storage in cache.canonical():
        storage[block] = 0


@op("attn_plan@1", "meta[P] i32!, seq_lens[S] i32, cu_q[S+1] i32", exact=True)
def attn_plan(meta: torch.Tensor, seq_lens: torch.Tensor, cu_q: torch.Tensor) -> None:
    """Lay out a step's attention work on the device, once for all layers of a cache group.

    What meta holds is between a plan kernel and the attention kernels that name it; the torch forms need none.
    """


def _attn_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    kind = torch_dtype(dtype)
    cases: tuple[tuple[KVLayout, int, int, int, int, tuple[tuple[int, int], ...], dict[str, Any]], ...] = (
        (NHD, 2, 1, 8, 4, ((1, 1),), {}),
        (NHD, 4, 2, 20, 16, ((5, 5), (1, 37), (7, 20), (0, 0)), {}),
        (HND, 6, 2, 16, 5, ((3, 12), (1, 1), (9, 9)), {"window": 4}),
        (NHD, 4, 4, 8, 16, ((4, 30), (2, 2)), {"softcap": 5.0, "lse": True}),
        (NHD, 4, 2, 8, 16, ((4, 30), (2, 2)), {"sinks": True, "causal": False}),
        (NHD, 2, 1, 8, 4, (), {}),
    )
    for layout, hq, hk, d, size, seqs, extra in cases:
        width = max([-(-n // size) for _, n in seqs], default=1)
        blocks = 1 + sum(-(-n // size) for _, n in seqs)
        ids = iter((torch.randperm(blocks - 1, generator=g) + 1).tolist())
        tables = torch.zeros(len(seqs), width, dtype=torch.int32)
        for s, (_, n) in enumerate(seqs):
            for b in range(-(-n // size)):
                tables[s, b] = next(ids)
        t = sum(n for n, _ in seqs)
        cu_q = torch.tensor([0, *(n for n, _ in seqs)], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        args: dict[str, object] = {
            "out": torch.empty(t, hq, d, dtype=kind),
            "lse": torch.empty(t, hq) if extra.get("lse") else None,
            "q": torch.randn(t, hq, d, generator=g).to(kind),
            "cache": make_cache(
                layout, blocks, size, hk, d, torch.randn(blocks * 2 * size * hk * d, generator=g).to(kind)
            ),
            "tables": tables,
            "seq_lens": torch.tensor([n for _, n in seqs], dtype=torch.int32),
            "cu_q": cu_q,
            "meta": torch.empty(0, dtype=torch.int32),
            "sinks": torch.randn(hq, generator=g).to(kind) if extra.get("sinks") else None,
            "scale": d**-0.5,
            "causal": extra.get("causal", True),
            "window": extra.get("window", 0),
            "softcap": extra.get("softcap", 0.0),
        }
        yield Example(f"{layout.name} Hq={hq} Hk={hk} D={d} block={size} seqs={seqs} {extra}", args)


def _portable(
    out: torch.Tensor,
    q: torch.Tensor,
    cache: KVView,
    tables: torch.Tensor,
    seq_lens: torch.Tensor,
    cu_q: torch.Tensor,
    meta: torch.Tensor,
    scale: float,
    max_q: int,
    max_k: int,
    lse: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    causal: bool = True,
    window: int = 0,
    softcap: float = 0.0,
) -> None:
    """Every sequence padded to (max_q, max_k). [S sequences, Q queries, L keys, H heads, G queries a kv head]"""
    num_seqs, num_heads = tables.shape[0], q.shape[1]
    if num_seqs == 0 or q.shape[0] == 0 or max_k == 0:
        return
    keys, values = cache.canonical()
    num_q = cu_q[1:] - cu_q[:-1]
    first = (seq_lens - num_q - window + 1 if window else torch.zeros_like(seq_lens))[:, None]  # key that a query sees
    blocks = tables[:, : -(-max_k // cache.block_size)].long()
    start = torch.arange(blocks.shape[1], device=q.device) * cache.block_size
    held = (start < seq_lens[:, None]) & (start + cache.block_size > first)
    blocks = torch.where(held, blocks, 0)  # entries past the length or before the window may be anything
    k, v = wide(keys[blocks].flatten(1, 2)), wide(values[blocks].flatten(1, 2))  # [S, L, Hk, D]
    token = torch.arange(q.shape[0], device=q.device)
    seq = torch.searchsorted(cu_q[1:].contiguous(), token.int(), right=True)  # padding tokens get num_seqs
    rank = (token - cu_q[seq.clamp(max=num_seqs - 1)]).clamp(0, max_q - 1)
    padded = torch.zeros(num_seqs + 1, max_q, *q.shape[1:], dtype=q.dtype, device=q.device)
    padded[seq, rank] = q
    group = num_heads // k.shape[2]
    queries = wide(padded[:num_seqs]).unflatten(2, (-1, group))  # [S, Q, Hk, G, D]
    scores = torch.einsum("sqhgd,slhd->shgql", queries, k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    key = torch.arange(k.shape[1], device=q.device)
    position = (seq_lens - num_q)[:, None] + torch.arange(max_q, device=q.device)  # [S, Q]
    seen = key < seq_lens[:, None, None]  # [S, 1, L]
    if causal:
        seen = seen & (key <= position[..., None])
    if window:
        seen = seen & (key > position[..., None] - window)
    scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
    stale = (key >= seq_lens[:, None]) | (key < first)  # may hold NaN, and NaN * 0 is NaN
    v = v.masked_fill(stale[..., None, None], 0.0)
    if sinks is not None:
        extra = wide(sinks).view(1, -1, group, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, extra), -1)
    total = torch.logsumexp(scores, -1, keepdim=True)
    weights = torch.exp(scores - total)[..., : k.shape[1]]
    mixed = torch.einsum("shgql,slhd->sqhgd", weights, v).flatten(2, 3)  # [S, Q, H, Dv]
    inside = seq.clamp(max=num_seqs - 1)
    out.copy_(mixed[inside, rank])
    if lse is not None:
        lse.copy_(total[..., 0].permute(0, 3, 1, 2).flatten(2)[inside, rank])


@op(
    "attn_paged@1",
    "out[T,Hq,Dv] A!, lse[T,Hq] f32!?, q[T,Hq,D] A, cache[Hk,D,Dv] KVView X, tables[S,B] i32, seq_lens[S] i32, "
    "cu_q[S+1] i32, meta[P] i32, sinks[Hq] A?, scale: float, causal: bool = True, window: int = 0, "
    "softcap: float = 0.0",
    portable=_portable,
    examples=_attn_examples,
    tolerance=Tolerance(c=8.0),
)
def attn_paged(
    out: torch.Tensor,
    q: torch.Tensor,
    cache: KVView,
    tables: torch.Tensor,
    seq_lens: torch.Tensor,
    cu_q: torch.Tensor,
    meta: torch.Tensor,
    scale: float,
    lse: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    causal: bool = True,
    window: int = 0,
    softcap: float = 0.0,
) -> None:
    """Attention of each new token over its whole sequence, keys and values already in the cache.

    q, out    [T, Hq, D]  new tokens of all sequences, packed: sequence s has cu_q[s] to cu_q[s + 1]
    cache     one layer's blocks; Hq is a multiple of Hk
    tables    [S, B]      block ids of each sequence; entries past its length are not read, nor those of blocks that
                          no new token's window reaches
    seq_lens  [S]         length of each sequence, new tokens included
    lse       [T, Hq]     natural log of the sum of exponentials, sinks included
    sinks     [Hq]        a logit a head that takes weight and gives nothing
    causal    a token sees itself and what is before it, else the whole sequence
    window    with w > 0 a token sees itself and the w - 1 before it
    softcap   with c > 0 scores become c tanh(score / c)
    Source: Kwon et al. 2023, section 4.1; Dao 2023 (FlashAttention-2), algorithm 1.
    """
    keys, values = cache.canonical()
    group = q.shape[1] // keys.shape[2]
    bounds = cu_q.tolist()
    for s, length in enumerate(seq_lens.tolist()):
        start, end = bounds[s], bounds[s + 1]
        if start == end:
            continue
        first = max(0, length - (end - start) - window + 1) if window else 0  # the first key that a query sees
        skipped = first // cache.block_size
        blocks = tables[s, skipped : -(-length // cache.block_size)].long()
        held = slice(first - skipped * cache.block_size, length - skipped * cache.block_size)
        k = wide(keys[blocks].flatten(0, 1)[held]).repeat_interleave(group, 1)  # [L, Hq, D]
        v = wide(values[blocks].flatten(0, 1)[held]).repeat_interleave(group, 1)
        scores = torch.einsum("qhd,lhd->hql", wide(q[start:end]), k) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        position = torch.arange(length - (end - start), length, device=q.device)[:, None]
        key = torch.arange(first, length, device=q.device)
        if causal:
            scores = scores.masked_fill(key > position, -torch.inf)
        if window:
            scores = scores.masked_fill(key <= position - window, -torch.inf)
        if sinks is not None:
            scores = torch.cat((scores, wide(sinks)[:, None, None].expand(-1, end - start, 1)), -1)
        weights = scores.softmax(-1)[..., : len(key)]
        out[start:end] = torch.einsum("hql,lhd->qhd", weights, v).to(out.dtype)
        if lse is not None:
            lse[start:end] = torch.logsumexp(scores, -1).t()
