"""What a request's own parameters do to its logits before the draw: tokens forbidden or biased, and penalties.

Both operations read the row state, where the parameters and the token history are, and write float32, so that the
model's own logits stay for the log-probabilities. A logit row of which nothing is drawn, or whose request does not use
the operation, is copied bit for bit. NaN and +inf are copied too: a row that holds one is no distribution, and the
draw must see it. No result is larger than the largest finite number.
"""

from __future__ import annotations

import torch

from aphrodite.ops.numeric import wide
from aphrodite.ops.op import op
from aphrodite.ops.rows import or_spare
from aphrodite.platform.layout import Rows

_SCHEMA = "out[R,V] f32!, logits[R,V] A, rows Rows, draw_rows[R] i32"
_ALIASES = (("out", "logits"),)


@op("edit_logits@1", _SCHEMA, aliases=_ALIASES, exact=True)
def edit_logits(out: torch.Tensor, logits: torch.Tensor, rows: Rows, draw_rows: torch.Tensor) -> None:
    """Forbid and bias single tokens, by the lists of each draw's row (draw_rows; -1: no draw, no change).

    Forbidden, that is -inf: ids whose bit is not set in `allowed`, if has_allowed; the last id of a bad word whose
    other ids are the end of the output (of the tokens from num_prompt on); `stops`, while num_tokens < min_len.
    To the others of bias_ids, `biases` are added. How the lists lie is said at Rows.
    """
    scores = wide(logits)
    vocab = scores.shape[1]
    if scores.shape[0] == 0 or vocab == 0:
        return
    row, draws = or_spare(rows, draw_rows), draw_rows >= 0

    def used(count: str, width: int) -> torch.Tensor:
        """[R, width] which entries of a list are there."""
        return (torch.arange(width, device=scores.device) < rows.view(count)[row][:, None]) & draws[:, None]

    def marked(ids: torch.Tensor, these: torch.Tensor) -> torch.Tensor:
        """[R, V] whether an id is among `these` of ids."""
        wherever = torch.where(these, ids, vocab).long()
        return scores.new_zeros(scores.shape[0], vocab + 1, dtype=torch.bool).scatter(1, wherever, True)[:, :vocab]

    bias_ids = rows.view("bias_ids")[row]
    biased = torch.where(used("num_biases", bias_ids.shape[1]), bias_ids, vocab).long()
    bias = scores.new_zeros(scores.shape[0], vocab + 1).scatter(1, biased, rows.view("biases")[row].to(scores.dtype))
    bias = bias[:, :vocab]

    token = torch.arange(vocab, device=scores.device)
    bits = (rows.view("allowed").reshape(rows.state.shape[0], -1)[row][:, token // 32] >> (token % 32)) & 1
    forbidden = (bits == 0) & (draws & (rows.view("has_allowed")[row] != 0))[:, None]

    stops = rows.view("stops")[row]
    early = rows.view("num_tokens")[row] < rows.view("min_len")[row]
    forbidden |= marked(stops, used("num_stops", stops.shape[1]) & early[:, None])

    bad_ids = rows.view("bad_ids")[row]
    forbidden |= marked(bad_ids, _ends_of_bad_words(rows, row, bad_ids, used("num_bad_tokens", bad_ids.shape[1])))

    edited = torch.where(bias != 0, _bounded(scores + bias, scores), scores)
    broken = scores.isnan() | scores.isposinf()
    out.copy_(torch.where(forbidden & ~broken, -torch.inf, edited))


def _ends_of_bad_words(rows: Rows, row: torch.Tensor, ids: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """[R, N] whether an entry is the last token of a bad word whose other tokens end the output."""
    place = torch.where(used, rows.view("bad_places")[row], 0)
    history = rows.view("tokens")
    within = used & (place < 0)
    at = rows.view("num_tokens")[row][:, None] + torch.where(within, place, -1)
    there = history[row[:, None], at.clamp(0, history.shape[1] - 1).long()]
    misses = within & ~((at >= rows.view("num_prompt")[row][:, None]) & (there == ids))
    upto = misses.cumsum(1)
    start = torch.arange(ids.shape[1], device=ids.device) - place.clamp(min=0)  # the entry before the word
    before = torch.where(start >= 0, upto.gather(1, start.clamp(min=0).long()), 0)
    return used & (place > 0) & (upto == before)


@op("penalise_logits@1", _SCHEMA, aliases=_ALIASES, exact=True)
def penalise_logits(
    out: torch.Tensor, logits: torch.Tensor, rows: Rows, draw_rows: torch.Tensor, max_k: int | None = None
) -> None:
    """Penalise the tokens that each draw's sequence holds already (draw_rows; -1: no draw, no change).

    Repetition r: l > 0 ? l / r : l * r for tokens of prompt or output. Then, for tokens of the output (from num_prompt
    on), l - f * count - q with frequency f and presence q. Tokens of value -1 count for nothing.
    max_k  bound on the length of any sequence, known to the host; absent, the whole history is read
    """
    scores = wide(logits)
    vocab = scores.shape[1]
    if scores.shape[0] == 0 or vocab == 0:
        return
    row, draws = or_spare(rows, draw_rows), draw_rows >= 0
    tokens = rows.view("tokens")
    tokens = tokens[:, : min(max_k, tokens.shape[1]) if max_k is not None else tokens.shape[1]][row]
    place = torch.arange(tokens.shape[1], device=scores.device)
    known = (place < rows.view("num_tokens")[row][:, None]) & (tokens >= 0) & (tokens < vocab) & draws[:, None]
    output = known & (place >= rows.view("num_prompt")[row][:, None])

    def counted(these: torch.Tensor) -> torch.Tensor:
        ones = torch.ones_like(tokens, dtype=scores.dtype)
        bins = torch.where(these, tokens, vocab).long()
        return scores.new_zeros(scores.shape[0], vocab + 1).scatter_add(1, bins, ones)[:, :vocab]

    def column(name: str) -> torch.Tensor:
        return rows.view(name)[row].to(scores.dtype)[:, None]

    r, count = column("repetition"), counted(output)
    repeated = torch.where(scores > 0, scores / r, scores * r)
    penalised = torch.where(counted(known) > 0, _bounded(repeated, scores), scores)
    amount = column("frequency") * count + column("presence") * (count > 0)
    out.copy_(torch.where((count > 0) & (amount != 0), _bounded(penalised - amount, penalised), penalised))


def _bounded(changed: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """The change where there was a finite number, within the finite numbers; else what was there."""
    most = torch.finfo(changed.dtype).max
    return torch.where(before.isfinite(), changed.clamp(-most, most), before)
