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

    finish_reason  "stop" (an end token), "length", or "error" (the logits were not numbers, or left no token to draw)
    stop_reason    the token id that ended it, if it is not the model's own end token
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[TokenLogprobs] | None
    finish_reason: str | None
    stop_reason: int | None


@dataclass(frozen=True)
class RequestOutput:
    """A request's result. prompt_logprobs[0] is None: nothing comes before the first token. num_cached_tokens: how many
    of the prompt were not computed, since the prefix cache had them."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprobs | None] | None
    num_cached_tokens: int = 0
