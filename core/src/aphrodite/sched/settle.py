"""What a step's results mean for one sequence."""

from __future__ import annotations

from aphrodite.types.request import Sequence, TokenLogprobs
from aphrodite.types.step import Logprobs


def finish_reason(seq: Sequence) -> str | None:
    """Why its last token, just drawn, ends a sequence; None if it does not. Sets stop_reason."""
    token, sampling = seq.tokens[-1], seq.request.sampling
    if token in sampling.stop_token_ids:
        seq.stop_reason = token
        return "stop"
    if token in seq.request.stop_ids and not sampling.ignore_eos:
        return "stop"
    return "length" if len(seq.tokens) >= seq.request.max_total_tokens else None


def keep_logprobs(seq: Sequence, logprobs: Logprobs | None, start: int, end: int, draws: bool) -> None:
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
