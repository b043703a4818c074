"""What a step's results mean for its sequences: tokens and log-probabilities they get, and who ends by them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aphrodite.sched.lifecycle import Lifecycle
from aphrodite.types.request import Sequence, TokenLogprobs
from aphrodite.types.step import Int32, Logprobs, SchedulerOutput, StepOutput


def settle(lifecycle: Lifecycle, plan: SchedulerOutput, result: StepOutput) -> list[Sequence]:
    """Append drawn tokens, publish blocks that they have filled, finish what has ended. Returns the sequences that have
    got something; results of an old epoch are dropped."""
    rows, members = lifecycle.rows, lifecycle.rows.members
    if plan.num_new is members.ones and members.num_logprobs < 0 and result.tokens.min() >= 0:
        return _append_all(lifecycle, members.rows, result.tokens, members.seqs)  # all decode, nobody has left since
    ends = np.cumsum(plan.num_logits)
    drawn = result.tokens[ends - 1] if len(result.tokens) else np.full(len(ends), -1)
    alive = (rows.epochs[plan.rows] == plan.epochs) & (plan.num_logits > 0)
    only_draws = (plan.num_logits == 1) & (plan.draws > 0) & (rows.logprobs[plan.rows] < 0)
    plain = alive & only_draws & (drawn >= 0)
    numbers = plan.rows[plain]
    changed = _append_all(lifecycle, numbers, drawn[plain], rows.at_all(numbers.tolist()))
    bad = []
    for index in np.flatnonzero(alive & ~plain).tolist():
        seq = rows.at(int(plan.rows[index]))
        end = int(ends[index])
        start = end - int(plan.num_logits[index])
        changed.append(seq)
        if (result.tokens[start:end] < 0).any():
            bad.append(seq)
            continue
        draws = bool(plan.draws[index])
        _keep_logprobs(seq, result.logprobs, start, end, draws)
        if draws:
            _append_all(lifecycle, plan.rows[index : index + 1], result.tokens[end - 1 : end], [seq])
    if bad:
        _drop(lifecycle, bad)
    return changed


def _append_all(
    lifecycle: Lifecycle, numbers: Int32, drawn: npt.NDArray[np.int64], seqs: list[Sequence]
) -> list[Sequence]:
    """One drawn token for each of these rows and their sequences."""
    rows, kv = lifecycle.rows, lifecycle.kv
    any(map(list.append, [seq.tokens for seq in seqs], drawn.tolist()))  # each gives None: all are called
    rows.settled[numbers] = settled = rows.settled[numbers] + 1
    ended = rows.stops.hits(drawn) | (settled >= rows.limit[numbers])
    full = (settled - 1) % kv.block_size == 0
    publish = kv.publish
    for index in np.flatnonzero(full | ended).tolist():
        seq = seqs[index]
        publish(seq, len(seq.tokens) - 1)  # the last one is computed by the next step
        if ended[index]:
            _end(lifecycle, seq)
    return list(seqs)


def _end(lifecycle: Lifecycle, seq: Sequence) -> None:
    """Finish a sequence, or let it start over, if its last token, just settled, says so. Who starts over is in no step
    in flight: known tokens never pass the limit."""
    reason = _finish_reason(seq)
    if reason is not None:
        lifecycle.finish(seq, reason)
    elif lifecycle.outgrows(seq):
        lifecycle.start_over(seq)


def _drop(lifecycle: Lifecycle, bad: list[Sequence]) -> None:
    """Sequences whose logits were no numbers. None of their blocks is found any more, and what they held is zeroed
    before it is used again. Who computed all of its blocks itself fails; who adopted some may be innocent, and computes
    again without the cache."""
    for seq in bad:
        lifecycle.kv.taint(seq)
        if seq.num_adopted:
            seq.reads_cache = False
            lifecycle.preempt(seq)
        else:
            lifecycle.finish(seq, "error")


def _finish_reason(seq: Sequence) -> str | None:
    """Why its last token, just drawn, ends a sequence; None if it does not. Sets stop_reason."""
    token, sampling = seq.tokens[-1], seq.request.sampling
    if token in sampling.stop_token_ids:
        seq.stop_reason = token
        return "stop"
    if token in seq.request.stop_ids and not sampling.ignore_eos:
        return "stop"
    return "length" if len(seq.tokens) >= seq.request.max_total_tokens else None


def _keep_logprobs(seq: Sequence, logprobs: Logprobs | None, start: int, end: int, draws: bool) -> None:
    """Append what a sequence asked for from its logit rows start to end, of which the last drew a token if `draws`."""
    if logprobs is None:
        return
    sampling = seq.request.sampling
    if sampling.prompt_logprobs is not None:
        for index in range(start, end - draws):
            seq.prompt_logprobs.append(_token_logprobs(logprobs, index, sampling.prompt_logprobs))
    if draws and sampling.logprobs is not None:
        seq.logprobs.append(_token_logprobs(logprobs, end - 1, sampling.logprobs))


def _token_logprobs(logprobs: Logprobs, index: int, count: int) -> TokenLogprobs:
    values, ids = logprobs.values[index].tolist(), logprobs.ids[index].tolist()
    top = tuple(zip(ids[1 : count + 1], values[1 : count + 1], strict=True))
    return TokenLogprobs(ids[0], values[0], int(logprobs.rank[index]), top)
