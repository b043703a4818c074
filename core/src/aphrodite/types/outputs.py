"""What a caller gets back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Logprob:
    """Natural log-probability of a token, its rank (1 is the likeliest) and its text."""

    logprob: float
    rank: int
    decoded_token: str | None


TokenLogprobs = dict[int, Logprob]


@dataclass(frozen=True)
class CompletionOutput:
    """One continuation; `index` counts those of its prompt.

    text           the decoding of all its ids, or what of it stands before the stop string that ended it; "" without a
                   tokenizer
    finish_reason  "stop" (an end token, or a stop string), "length", "abort", or "error" (the logits were not numbers,
                   or left no token to draw; or memory ran out for it, as the log says); None while it goes on
    stop_reason    what ended it, if it is not the model's own end token: the token id, or the stop string
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[TokenLogprobs] | None
    finish_reason: str | None
    stop_reason: int | str | None


@dataclass(frozen=True)
class RequestMetrics:
    """When things happened to a request, in seconds of time.monotonic(); None: not yet.

    first_token_s    when the first token was there, of the first of its continuations
    num_preemptions  times that it had to make room and start over
    """

    arrival_s: float
    first_scheduled_s: float | None
    first_token_s: float | None
    finished_s: float | None
    num_preemptions: int


@dataclass(frozen=True)
class RequestOutput:
    """A request's result, or what there is of it so far.

    prompt_logprobs    [0] is None: nothing comes before the first token
    num_cached_tokens  how many tokens of the prompt were not computed, since the prefix cache had them
    metrics            None before it was taken in
    finished           whether all its outputs have ended
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprobs | None] | None
    num_cached_tokens: int = 0
    metrics: RequestMetrics | None = None
    finished: bool = True
