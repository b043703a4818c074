"""Drawing tokens and log-probabilities without sorting vocabularies, and without noise for tokens that cannot win.

What may be drawn is found by thresholds that are exact: a token is left out only if it certainly is not kept, or if no
noise could lift it over one whose noise is known. Few candidates are gathered; of many, whole rows are computed in
blocks that stay in the processor's cache. Which way a row goes depends on that row alone.
"""

from __future__ import annotations

import math

import torch

from aphrodite.plugin import PORTABLE, C, Flag, Kernel
from aphrodite_cpu.philox import add_gumbel, gumbel

Tensor = torch.Tensor

_HIGHEST = 33 * math.log(2) + 0.01  # no noise is above 33 ln 2, that of the smallest word
_FEW = 6  # a gathered token costs as much as six in a row: it makes three words in vain
_TOGETHER = 1024  # candidates of rows that are computed side by side
_LANES = 32  # a row's tokens start at a multiple of it, as memory is laid out for vectors
_HALVES = 9  # of a range of about 20, in logarithms
_LEAST_SHARE = 1e-300  # a share that float32 rounds to 0 keeps the likeliest token all the same
_HEAP = 1024  # the most tokens that a heap finds faster than a selection


def sample(
    ids: Tensor,
    logits: Tensor,
    forced: Tensor | None = None,
    temperature: Tensor | None = None,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    child: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
) -> None:
    """sample@1"""
    if logits.shape[0] == 0 or logits.shape[1] == 0:
        return
    scores = logits.float()
    top, best = scores.amax(-1), scores.argmax(-1)  # both are vectorised, max(-1) is not
    if temperature is not None:
        assert seed is not None and position is not None and child is not None, "a draw needs seed, position and child"
        drawn = (temperature > 0) & top.isfinite()
        if forced is not None:
            drawn &= forced < 0
        rows = drawn.nonzero()[:, 0]
        if len(rows):
            key = [x.index_select(0, rows) for x in (seed, position, child)]
            limits = [None if x is None else x.index_select(0, rows) for x in (top_k, top_p, min_p)]
            scaled = scores.index_select(0, rows).sub_(top[rows, None]).div_(temperature[rows, None])
            best.index_copy_(0, rows, _draw(scaled, best[rows], *key, *limits))
    if forced is not None:
        best = torch.where(forced >= 0, forced, best)
    ids.copy_(torch.where(top.isfinite(), best, -1))


def _draw(
    scaled: Tensor,
    likeliest: Tensor,
    seed: Tensor,
    position: Tensor,
    child: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
) -> Tensor:
    """Tokens drawn from scaled [n, V], whose largest entry, at `likeliest`, is 0 in every row. Overwrites scaled."""
    num, vocab = scaled.shape
    cut = torch.full((num,), -torch.inf) if min_p is None else torch.log(min_p)
    if top_k is not None:
        cut = torch.maximum(cut, _kth(scaled, top_k))
    if top_p is not None:
        for row, share in enumerate(top_p.tolist()):
            if share < 1.0:
                kept, values = _nucleus(scaled[row], cut[row], share)
                scaled[row].fill_(-torch.inf).index_copy_(0, kept, values)
    sure = gumbel(likeliest[:, None], seed, position, child)[:, 0]  # what the likeliest token reaches
    likely = scaled >= torch.maximum(cut, sure - _HIGHEST)[:, None]
    counts = likely.sum(-1)

    out = torch.empty(num, dtype=torch.int64)
    for rows in _shares(counts, vocab):
        mine = likely[rows].nonzero()
        place = torch.arange(len(mine)) - (counts[rows].cumsum(0) - counts[rows])[mine[:, 0]]
        width = -(-int(counts[rows].max()) // _LANES) * _LANES
        tokens = torch.zeros(len(rows), width, dtype=torch.int64)
        values = torch.full((len(rows), width), -torch.inf)
        tokens[mine[:, 0], place] = mine[:, 1]
        values[mine[:, 0], place] = scaled[rows[mine[:, 0]], mine[:, 1]]
        values += gumbel(tokens, seed[rows], position[rows], child[rows])
        out[rows] = tokens.gather(1, values.argmax(-1, keepdim=True))[:, 0]
    rows = (counts > vocab // _FEW).nonzero()[:, 0]
    if len(rows):
        whole = scaled[rows].masked_fill_(scaled[rows] < cut[rows, None], -torch.inf)
        add_gumbel(whole, seed[rows], position[rows], child[rows])
        out[rows] = whole.argmax(-1)
    return out


def _shares(counts: Tensor, vocab: int) -> list[Tensor]:
    """Rows with few candidates: those with very few together, of the others each alone."""
    few, very = counts <= vocab // _FEW, counts <= _TOGETHER
    together = (few & very).nonzero()[:, 0]
    alone = (few & ~very).nonzero()
    return [rows for rows in (together, *alone) if len(rows)]


def _kth(scaled: Tensor, top_k: Tensor) -> Tensor:
    """[n] the k-th largest of each row, -inf where k is 0."""
    vocab = scaled.shape[1]
    out = torch.full((scaled.shape[0],), -torch.inf)
    k = top_k.long()
    limited = ((k > 0) & (k < vocab)).nonzero()[:, 0]
    heaped = limited[k[limited] <= _HEAP]
    if len(heaped):
        best = scaled[heaped].topk(int(k[heaped].max())).values
        out[heaped] = best.gather(1, k[heaped, None] - 1)[:, 0]
    for row in limited[k[limited] > _HEAP].tolist():
        out[row] = scaled[row].kthvalue(vocab - int(k[row]) + 1).values
    return out


def _nucleus(scaled: Tensor, cut: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Ids and values of the likeliest tokens that have `share` of the probability of all that reach the cut.

    A token with less than (1 - share) / V of it is not among them: all behind it would have less than 1 - share, and
    all before it less than share. Between that and 1 the place where the sum reaches the share is closed in by halves,
    and only what is left in between is sorted.
    """
    share = max(share, _LEAST_SHARE)
    weights = scaled.exp().masked_fill_(scaled < cut, 0.0)
    total = float(weights.sum(dtype=torch.float64))
    least = (1.0 - share) / len(scaled) * total * 0.999
    ids = ((weights >= least) & (weights > 0)).nonzero()[:, 0]
    weights = weights[ids]

    def above(bound: float) -> float:
        return float(weights.masked_fill(weights < bound, 0.0).sum(dtype=torch.float64))

    low, high, base = math.log(least), 1.0, 0.0
    for _ in range(_HALVES):
        middle = (low + high) / 2
        if (sum_above := above(math.exp(middle))) >= share * total:
            low = middle
        else:
            high, base = middle, sum_above
    sure = weights >= math.exp(high)
    last = ((weights >= math.exp(low)) & ~sure).nonzero()[:, 0]
    p, order = weights[last].double().sort(descending=True, stable=True)
    kept = last[order[base + p.cumsum(0) - p < share * total]]
    ids = ids[torch.cat((sure.nonzero()[:, 0], kept))]
    return ids, scaled[ids]


def logprobs(lp: Tensor, ids: Tensor, rank: Tensor, logits: Tensor, chosen: Tensor) -> None:
    """logprobs@1"""
    if logits.shape[0] == 0:
        return
    scores = logits.float()
    total = torch.logsumexp(scores, -1)
    found = scores.gather(1, chosen.clamp(min=0)[:, None])
    none = chosen < 0
    lp[:, 0] = (found[:, 0] - total).masked_fill(none, torch.nan)
    ids[:, 0] = chosen
    rank.copy_(torch.where(none, 0, 1 + (scores > found).sum(-1)))
    if num := lp.shape[1] - 1:
        values, tokens = _likeliest(scores, num)
        lp[:, 1:], ids[:, 1:] = values - total[:, None], tokens


def _likeliest(scores: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The `num` largest of each row, equal ones by id. A heap says which; where the last of them has equals that it
    left out, the row's tokens from there on are looked at again."""
    values, tokens = scores.topk(num, sorted=False)
    tokens, order = tokens.sort(-1)
    values = values.gather(1, order)
    last = values.amin(-1, keepdim=True)
    for row in ((scores >= last).sum(-1) > num).nonzero()[:, 0].tolist():
        equals = (scores[row] == last[row]).nonzero()[:, 0]
        above = (scores[row] > last[row]).nonzero()[:, 0]
        tokens[row] = torch.cat((above, equals[: num - len(above)])).sort().values
        values[row] = scores[row, tokens[row]]
    values, order = values.sort(dim=-1, descending=True, stable=True)
    return values, tokens.gather(1, order)


_DTYPES = {"f32", "bf16", "f16"}
_DRAW = {"forced", "temperature", "seed", "position", "child", "top_k", "top_p", "min_p"}
_ALWAYS = Flag.ALLOCATES | Flag.RUN_STABLE
_ALONE = _ALWAYS | Flag.BATCH_INVARIANT | Flag.SHAPE_STABLE
SAMPLING = (
    Kernel("sample@1", "cpu.sample", fn=sample, where=C(dtype=_DTYPES, features=_DRAW), tier=PORTABLE, flags=_ALONE),
    Kernel("logprobs@1", "cpu.logprobs", fn=logprobs, where=C(dtype=_DTYPES), tier=PORTABLE, flags=_ALWAYS),
)
