"""Attention over the paged cache.

    sequences with one new token   all in one native call (decode.py)
    all others                     one by one, a chunk of keys at a time, and a block of queries that sees some of it:
                                   two batched products and a softmax, over keys gathered into scratch memory

Torch's fused attention knows no soft cap and no sinks, and copies the keys for each query head of a group. Written out,
all of these cost nothing, and short blocks of queries keep the scores in the processor's cache.

Arithmetic is float32 whatever is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from aphrodite.plugin import ITEMSIZE, PORTABLE, Binding, C, Dims, Facts, Flag, Kernel, Run, Workspace
from aphrodite_cpu import decode

Tensor = torch.Tensor

_CHUNK_BYTES = 4 << 20  # keys of a chunk, as float32: they stay in the last level of cache
_LEAST_CHUNK = 256  # tokens, so that a chunk holds a block at least
_QUERIES, _ROWS, _FEWEST = 64, 128, 16  # queries of a block; as many times the query heads of a group; at least
_MASKED = torch.finfo(torch.float32).min  # a number: rows that see nothing of a chunk must not become NaN


@dataclass(frozen=True)
class _Sizes:
    """What follows from the sizes of a site: tokens of a chunk, queries of a block, floats of scratch for each use."""

    chunk: int
    queries: int
    keys: int
    values: int
    scores: int

    @classmethod
    def of(cls, facts: Facts) -> _Sizes:
        heads, group = facts["Hk"], facts["Hq"] // facts["Hk"]
        chunk = max(_LEAST_CHUNK, _CHUNK_BYTES // (heads * facts["D"] * ITEMSIZE["f32"]))
        queries = max(_FEWEST, min(_QUERIES, _ROWS // group))
        return cls(
            chunk, queries, chunk * heads * facts["D"], chunk * heads * facts["Dv"], chunk * facts["Hq"] * queries
        )


def _workspace(facts: Facts, bounds: Dims) -> Workspace:
    sizes = _Sizes.of(facts)
    stored = 0 if facts["X"] == "f32" else max(sizes.keys, sizes.values) * ITEMSIZE[facts["X"]]
    return Workspace((sizes.keys + sizes.values + sizes.scores) * ITEMSIZE["f32"] + stored)


def bind(binding: Binding) -> Run:
    """attn_paged@1 of one layer."""
    return _Attention(binding).run


@dataclass(frozen=True)
class _Half:
    """Keys or values of the layer, and where blocks of them are copied to."""

    cache: Tensor  # [block, token, head, dim]
    stored: Tensor  # [blocks of a chunk, token, head, dim], in the cache's type
    wide: Tensor  # the same in float32; the same memory if the cache is float32

    def take(self, blocks: Tensor) -> Tensor:
        """Whole blocks as [token, head, dim]. Copying blocks is five times as fast as indexing tokens."""
        num = blocks.shape[0]
        torch.index_select(self.cache, 0, blocks, out=self.stored[:num])
        if self.wide is not self.stored:
            self.wide[:num].copy_(self.stored[:num])
        return self.wide[:num].flatten(0, 1)


class _Attention:
    """The kernel at one site, its memory cut up once."""

    def __init__(self, binding: Binding) -> None:
        args, facts = binding.args, binding.facts
        self._out, self._q, self._lse, sinks = (args[name] for name in ("out", "q", "lse", "sinks"))
        self._tables, self._lengths, self._bounds = args["tables"], args["seq_lens"].numpy(), args["cu_q"].numpy()
        self._decode = decode.bind(binding) if decode.takes(facts) else None
        self._fewest = 1 if self._decode is None else 2  # new tokens of a sequence that is attended to here
        self._num_seqs = binding.extents["seq_lens"]
        self._scale, self._causal, self._window = args["scale"], args["causal"], args["window"]
        self._softcap, self._block_size = args["softcap"], args["cache"].block_size
        self._heads, self._group = facts["Hk"], facts["Hq"] // facts["Hk"]
        self._sinks = None if sinks is None else sinks.float().view(self._heads, self._group)
        self._sizes = sizes = _Sizes.of(facts)
        self._chunk_blocks = sizes.chunk // self._block_size
        floats = binding.scratch[: (sizes.keys + sizes.values + sizes.scores) * ITEMSIZE["f32"]].view(torch.float32)
        keys, values, self._scores = floats.split((sizes.keys, sizes.values, sizes.scores))
        stored = binding.scratch[floats.shape[0] * ITEMSIZE["f32"] :]
        cache_k, cache_v = args["cache"].canonical()
        self._keys, self._values = self._half(cache_k, keys, stored), self._half(cache_v, values, stored)

    def _half(self, cache: Tensor, floats: Tensor, stored: Tensor) -> _Half:
        shape = (self._chunk_blocks, *cache.shape[1:])
        size = shape[0] * shape[1] * shape[2] * shape[3]
        wide = floats[:size].view(shape)
        if cache.dtype == torch.float32:
            return _Half(cache, wide, wide)
        return _Half(cache, stored[: size * cache.element_size()].view(cache.dtype).view(shape), wide)

    def run(self, dims: Dims) -> None:
        """One step. Rows of padding are left as they are."""
        num_seqs = self._num_seqs.at(dims)
        if self._decode is not None:
            self._decode(num_seqs)
        bounds = self._bounds[: num_seqs + 1]
        for seq in np.flatnonzero(np.diff(bounds) >= self._fewest):
            self._sequence(int(seq), int(bounds[seq]), int(bounds[seq + 1]), int(self._lengths[seq]))

    def _sequence(self, seq: int, start: int, end: int, length: int) -> None:
        """Tokens start to end of the step, over the blocks that they see, a chunk of them at a time."""
        step, size = self._sizes.queries, self._block_size
        first = max(0, length - (end - start) - self._window + 1) // size if self._window else 0
        last = -(-length // size)
        alone = last - first <= self._chunk_blocks
        parts: dict[int, _Part] = {}
        for block in range(first, last, self._chunk_blocks):
            stop = min(last, block + self._chunk_blocks)
            blocks = self._tables[seq, block:stop]
            keys, values = self._keys.take(blocks), self._values.take(blocks)
            for at in range(start, end, step):
                to = min(end, at + step)
                position = length - end + at  # of the first query
                low = max(block * size, position - self._window + 1 if self._window else 0)
                high = min(stop * size, length, position + to - at if self._causal else length)
                if low >= high:
                    continue
                span = slice(low - block * size, high - block * size)
                part = self._block(at, to, keys[span], values[span], position, low, alone)
                parts[at] = parts[at].merged(part) if at in parts else part
                if alone:
                    self._store(at, to, parts.pop(at))
        for at, part in parts.items():
            self._store(at, min(end, at + step), part)

    def _block(self, start: int, end: int, keys: Tensor, values: Tensor, position: int, low: int, alone: bool) -> _Part:
        """Queries start to end, the first of which stands at `position`, over keys from `low` on."""
        num, length = end - start, keys.shape[0]
        queries = self._q[start:end].float().unflatten(1, (self._heads, self._group)).permute(1, 2, 0, 3)
        queries = torch.mul(queries, self._scale).reshape(self._heads, self._group * num, -1)
        scores = self._scores[: queries.shape[0] * queries.shape[1] * length].view(self._heads, -1, length)
        torch.bmm(queries, keys.permute(1, 2, 0), out=scores)
        self._cap(scores)
        apart = scores.view(self._heads, self._group, num, length)
        query = torch.arange(position, position + num)[:, None]
        if self._causal and (ahead := low + length - position - 1) > 0:  # keys behind the first query
            ahead = min(ahead, length)
            key = torch.arange(low + length - ahead, low + length)
            apart[..., length - ahead :].masked_fill_(key > query, _MASKED)
        if self._window and (behind := position + num - self._window - low) > 0:  # keys that the last one cannot see
            behind = min(behind, length)
            key = torch.arange(low, low + behind)
            apart[..., :behind].masked_fill_(key <= query - self._window, _MASKED)
        lse = self._weigh(scores, alone)
        return _Part(torch.bmm(scores, values.transpose(0, 1)), lse)

    def _store(self, start: int, end: int, part: _Part) -> None:
        shape = (self._heads, self._group, end - start)
        y, lse = part.y.view(*shape, -1), None if part.lse is None else part.lse.view(shape)
        if lse is not None:
            lse = self._sink(y, lse, None if self._sinks is None else self._sinks[..., None])
        self._out[start:end].unflatten(1, shape[:2]).copy_(y.permute(2, 0, 1, 3))
        if self._lse is not None and lse is not None:
            self._lse[start:end].unflatten(1, shape[:2]).copy_(lse.permute(2, 0, 1))

    # ---- scores to weights --------------------------------------------------------------------------------------

    def _cap(self, scores: Tensor) -> None:
        if self._softcap:
            scores.mul_(1 / self._softcap).tanh_().mul_(self._softcap)

    def _weigh(self, scores: Tensor, alone: bool) -> Tensor | None:
        """Scores become weights that sum to 1; the logarithm of their sum where something needs it."""
        needed = not alone or self._sinks is not None or self._lse is not None
        lse = torch.logsumexp(scores, -1) if needed else None
        torch.softmax(scores, -1, out=scores)
        return lse

    def _sink(self, y: Tensor, lse: Tensor, sinks: Tensor | None) -> Tensor:
        """Let the sinks take their weight from y; the logarithm of the sum with them."""
        if sinks is None:
            return lse
        total = torch.logaddexp(lse, sinks)
        y.mul_((lse - total).exp_()[..., None])
        return total


@dataclass(frozen=True)
class _Part:
    """What some of the keys give: their mix y, and the logarithm of the sum of exponentials, if there are others."""

    y: Tensor
    lse: Tensor | None

    def merged(self, other: _Part) -> _Part:
        """Of both sets of keys. Source: Dao 2023 (FlashAttention-2), section 3.1."""
        assert self.lse is not None and other.lse is not None
        lse = torch.logaddexp(self.lse, other.lse)
        y = self.y * (self.lse - lse).exp_()[..., None] + other.y * (other.lse - lse).exp_()[..., None]
        return _Part(y, lse)


ATTENTION = Kernel(
    "attn_paged@1",
    "cpu.attention",
    bind=bind,
    where=C(
        dtype={"f32", "bf16", "f16"},
        X={"f32", "bf16", "f16"},
        features={"causal", "window", "softcap", "sinks", "lse"},
    ),
    tier=PORTABLE,
    flags=Flag.ALLOCATES | Flag.RUN_STABLE,
    workspace=_workspace,
)
