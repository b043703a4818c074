"""Edits and penalties of logits, for the rows that ask for some and the tokens that they name: the rest is one copy."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aphrodite.plugin import PORTABLE, C, Flag, Kernel, Rows

Tensor = torch.Tensor


def edit_logits(out: Tensor, logits: Tensor, rows: Rows, draw_rows: Tensor) -> None:
    """edit_logits@1"""
    out.copy_(logits)
    counts = ("num_biases", "num_stops", "num_bad_tokens", "has_allowed", "num_tokens", "num_prompt", "min_len")
    lists = [
        rows.matrix(name) for name in ("bias_ids", "biases", "stops", "bad_ids", "bad_places", "tokens", "allowed")
    ]
    bias_ids, biases, stops, bad_ids, bad_places, tokens, allowed = lists
    for line, row, numbers in _drawn(rows, draw_rows, counts):
        num_biases, num_stops, num_bad, has_allowed, num_tokens, num_prompt, min_len = map(int, numbers)
        scores = out[line]
        if num_biases:
            ids, bias = bias_ids[row, :num_biases].long(), biases[row, :num_biases].to(out.dtype)
            before = scores[ids]
            scores[ids] = torch.where(bias != 0, _bounded(before + bias, before), before)
        forbidden = bad_ids.new_zeros(0)
        if num_stops and num_tokens < min_len:
            forbidden = stops[row, :num_stops]
        if num_bad:
            history = tokens[row, num_prompt:num_tokens].tolist()
            ends = _ends(bad_ids[row, :num_bad].tolist(), bad_places[row, :num_bad].tolist(), history)
            forbidden = torch.cat((forbidden, forbidden.new_tensor(ends)))
        if len(forbidden):
            ids = forbidden.long()
            scores[ids] = _forbidden(scores[ids])
        if has_allowed:
            bits = (allowed[row, :, None] >> torch.arange(32, dtype=torch.int32)) & 1
            scores.copy_(torch.where(bits.flatten()[: len(scores)] != 0, scores, _forbidden(scores)))


def penalise_logits(out: Tensor, logits: Tensor, rows: Rows, draw_rows: Tensor) -> None:
    """penalise_logits@1"""
    out.copy_(logits)
    tokens, vocab = rows.matrix("tokens"), out.shape[1]
    names = ("num_tokens", "num_prompt", "repetition", "frequency", "presence")
    for line, row, (num_tokens, num_prompt, repetition, frequency, presence) in _drawn(rows, draw_rows, names):
        if repetition == 1 and not frequency and not presence:
            continue
        scores, history = out[line], tokens[row, : int(num_tokens)]
        known = (history >= 0) & (history < vocab)
        ids = history[known].unique().long()
        before = scores[ids]
        scores[ids] = _bounded(torch.where(before > 0, before / repetition, before * repetition), before)
        ids, count = history[int(num_prompt) :][known[int(num_prompt) :]].unique(return_counts=True)
        ids, amount = ids.long(), frequency * count.to(out.dtype) + presence
        before = scores[ids]
        scores[ids] = torch.where(amount != 0, _bounded(before - amount, before), before)


def _drawn(rows: Rows, draw_rows: Tensor, names: tuple[str, ...]) -> Iterator[tuple[int, int, tuple[float, ...]]]:
    """Of each line from which a token is drawn: its number, its row, and these numbers of the row."""
    lines = (draw_rows >= 0).nonzero()[:, 0]
    picked = draw_rows[lines].long()
    columns = [rows.view(name)[picked].tolist() for name in names]
    yield from zip(lines.tolist(), picked.tolist(), zip(*columns, strict=True), strict=True)


def _ends(ids: list[int], places: list[int], output: list[int]) -> list[int]:
    """The last tokens of those bad words whose other tokens end the output."""
    found = []
    for last, length in enumerate(places):
        if length > 0:
            before = ids[last - length + 1 : last]
            if len(before) <= len(output) and output[len(output) - len(before) :] == before:
                found.append(ids[last])
    return found


def _forbidden(scores: Tensor) -> Tensor:
    """-inf, but for what is no logit: a row that holds NaN or +inf must be seen to."""
    return torch.where(scores.isnan() | scores.isposinf(), scores, -torch.inf)


def _bounded(changed: Tensor, before: Tensor) -> Tensor:
    """The change where there was a finite number, within the finite numbers; else what was there."""
    most = torch.finfo(changed.dtype).max
    return torch.where(before.isfinite(), changed.clamp(-most, most), before)


_WHERE = C(dtype={"f32", "bf16", "f16"})
_FLAGS = Flag.ALLOCATES | Flag.RUN_STABLE | Flag.BATCH_INVARIANT | Flag.SHAPE_STABLE
LOGITS = (
    Kernel("edit_logits@1", "cpu.edit", fn=edit_logits, where=_WHERE, tier=PORTABLE, flags=_FLAGS),
    Kernel("penalise_logits@1", "cpu.penalise", fn=penalise_logits, where=_WHERE, tier=PORTABLE, flags=_FLAGS),
)
