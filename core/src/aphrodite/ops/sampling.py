"""Drawing a token from logits, and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aphrodite.ops.numeric import generator, wide
from aphrodite.ops.op import Example, op
from aphrodite.ops.philox import random_words
from aphrodite.platform.dtypes import torch_dtype

DRAW_STAGE = 0  # XTC, speculation and the rest take stages of their own


def _sample_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    for r, v in ((0, 5), (1, 1), (4, 7), (6, 1000)):
        logits = (torch.randn(r, v, generator=g) * 3).to(torch_dtype(dtype))
        if r == 6:
            logits[1], logits[2, 3], logits[3, 5] = -torch.inf, torch.nan, torch.inf
        args: dict[str, object] = {
            "ids": torch.empty(r, dtype=torch.int64),
            "logits": logits,
            "forced": torch.randint(-3, v, (r,), generator=g).clamp(min=-1),
            "temperature": torch.rand(r, generator=g) * (torch.rand(r, generator=g) > 0.3),
            "seed": torch.randint(0, 2**62, (r,), generator=g),
            "position": torch.randint(0, 5000, (r,), generator=g),
            "child": torch.randint(0, 4, (r,), generator=g, dtype=torch.int32),
            "top_k": None,
            "top_p": None,
            "min_p": None,
        }
        yield Example(f"R={r} V={v}", args)
        limits = {
            "top_k": torch.randint(0, v + 1, (r,), generator=g, dtype=torch.int32),
            "top_p": torch.rand(r, generator=g) * 0.9 + 0.1,
            "min_p": torch.rand(r, generator=g) * 0.1,
        }
        yield Example(f"R={r} V={v} truncated", args | limits)
        yield Example(f"R={r} V={v} greedy", {name: args[name] for name in ("ids", "logits")})


@op(
    "sample@1",
    "ids[R] i64!, logits[R,V] A, forced[R] i64?, temperature[R] f32?, seed[R] i64?, position[R] i64?, child[R] i32?, "
    "top_k[R] i32?, top_p[R] f32?, min_p[R] f32?",
    examples=_sample_examples,
)
def sample(
    ids: torch.Tensor,
    logits: torch.Tensor,
    forced: torch.Tensor | None = None,
    temperature: torch.Tensor | None = None,
    seed: torch.Tensor | None = None,
    position: torch.Tensor | None = None,
    child: torch.Tensor | None = None,
    top_k: torch.Tensor | None = None,
    top_p: torch.Tensor | None = None,
    min_p: torch.Tensor | None = None,
) -> None:
    """One token a row: argmax(logits / temperature + Gumbel noise), ties to the lower id.

    forced       a known id where >= 0: taken as it is
    temperature  0, or absent: the largest logit; else seed, position and child are there too
    top_k, top_p, min_p  as in the field: applied to the scaled logits in the order min_p, top_k, top_p; 0, 1, 0 are off
    Noise: g = -log(-log1p(-v)), v = (word + 0.5) / 2^32, the Philox word of (seed; vocabulary index, position, child).
    A row with NaN, with +inf, or all -inf gives -1, forced or not.
    """
    scores = wide(logits)
    if scores.shape[1] == 0 or scores.shape[0] == 0:
        return
    top = scores.amax(-1)  # NaN if any is
    if temperature is None:
        best = scores.argmax(-1)
    else:
        assert seed is not None and position is not None and child is not None, "a draw needs seed, position and child"
        random = temperature > 0
        divisor = torch.where(random, temperature, 1.0).to(scores.dtype)[:, None]
        scaled = (scores - top[:, None]) / divisor  # from the top down: a tiny temperature makes no two infinities
        scaled = _truncate(scaled, top_k, top_p, min_p)
        noisy = scaled + _gumbel(random_words(seed, position, child, DRAW_STAGE, scores.shape[1]), scores.dtype)
        best = torch.where(random[:, None], noisy, scores).argmax(-1)
    if forced is not None:
        best = torch.where(forced >= 0, forced, best)
    ids.copy_(torch.where(top.isfinite(), best, -1))


def _gumbel(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Gumbel noise; log1p keeps the upper tail, where the winners are, exact in float32 too."""
    v = ((words.to(dtype) + 0.5) * 2.0**-32).clamp(max=1.0 - 2.0**-24)
    return -torch.log(-torch.log1p(-v))


def _truncate(
    scores: torch.Tensor,
    top_k: torch.Tensor | None,
    top_p: torch.Tensor | None,
    min_p: torch.Tensor | None,
) -> torch.Tensor:
    """-inf for what min_p, then top_k, then top_p drop. Equal logits at the k-th place are all kept."""
    if min_p is not None:
        floor = scores.amax(-1) + torch.log(min_p.to(scores.dtype))
        scores = scores.masked_fill(scores < floor[:, None], -torch.inf)
    if top_k is not None:
        k = torch.where(top_k > 0, top_k, scores.shape[1]).clamp(max=scores.shape[1]).long()
        kth = scores.sort(-1, descending=True).values.gather(1, k[:, None] - 1)
        scores = scores.masked_fill(scores < kth, -torch.inf)
    if top_p is not None:
        ordered, order = scores.sort(stable=True, dim=-1, descending=True)
        p = ordered.softmax(-1)
        before = p.cumsum(-1) - p
        drop = (before >= top_p.to(p.dtype)[:, None]) & (top_p < 1.0)[:, None]
        drop[:, 0] = False
        scores = scores.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), -torch.inf)
    return scores


def _logprob_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    for r, v, n in ((0, 5, 1), (1, 1, 1), (3, 9, 4), (5, 1000, 21)):
        args = {
            "lp": torch.empty(r, n),
            "ids": torch.empty(r, n, dtype=torch.int64),
            "rank": torch.empty(r, dtype=torch.int64),
            "logits": (torch.randn(r, v, generator=g) * 3).to(torch_dtype(dtype)),
            "chosen": torch.randint(-1, v, (r,), generator=g),
        }
        yield Example(f"R={r} V={v} N={n}", args)


@op(
    "logprobs@1",
    "lp[R,N] f32!, ids[R,N] i64!, rank[R] i64!, logits[R,V] A, chosen[R] i64",
    examples=_logprob_examples,
)
def logprobs(
    lp: torch.Tensor, ids: torch.Tensor, rank: torch.Tensor, logits: torch.Tensor, chosen: torch.Tensor
) -> None:
    """Natural log-probabilities of the chosen token (column 0) and of the N - 1 likeliest (columns 1 to N - 1).

    rank   1 + the number of likelier tokens than the chosen one
    Ties among the likeliest go to the lower id. A chosen id of -1 gives NaN and rank 0. N - 1 is at most V.
    """
    if logits.shape[0] == 0:
        return
    scores = wide(logits)
    scores = scores - torch.logsumexp(scores, -1, keepdim=True)
    found = scores.gather(1, chosen.clamp(min=0)[:, None])
    lp[:, :1] = found.masked_fill((chosen < 0)[:, None], torch.nan)
    ids[:, 0] = chosen
    rank.copy_(torch.where(chosen < 0, 0, 1 + (scores > found).sum(-1)))
    if lp.shape[1] > 1:
        top = scores.sort(stable=True, dim=-1, descending=True)
        lp[:, 1:] = top.values[:, : lp.shape[1] - 1]
        ids[:, 1:] = top.indices[:, : lp.shape[1] - 1]
