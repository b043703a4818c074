"""How many log-probabilities may be on their way: each takes a hundred bytes, here and in the engine, until its answer
has been written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from aphrodite.engine.requests import Prepared
from aphrodite.server.errors import ApiError, invalid

_PROMPTS_AT_ONCE = 4  # answers' worth of those that are asked for
_OUTPUTS_AT_ONCE = 2  # answers' worth of those that are here: an output is rarely as long as it may be


class Holder(Protocol):
    """A request under way."""

    @property
    def prepared(self) -> Sequence[Prepared]: ...

    @property
    def num_logprobs(self) -> int:
        """Log-probabilities of its outputs that are here."""
        ...


@dataclass(frozen=True)
class LogprobBounds:
    """most_of_prompts, most_of_outputs  in one answer"""

    most_of_prompts: int
    most_of_outputs: int

    def check(self, prepared: Sequence[Prepared], runs: Collection[Holder], wait_s: float) -> None:
        """ApiError if what a request asks for is too much for one answer, or for now; then after how many seconds it
        may come again."""
        of_prompts, of_outputs = _of_prompts(prepared), _of_outputs(prepared)
        if of_prompts > self.most_of_prompts:
            raise invalid(
                "logprobs",
                f"logprobs with echo may give at most {self.most_of_prompts} log-probabilities of prompts in one "
                f"answer, tokens times those of each and n; got {of_prompts}, ask for fewer or in several requests",
            )
        if of_outputs > self.most_of_outputs:
            raise invalid(
                "logprobs",
                f"an answer may have at most {self.most_of_outputs} log-probabilities: max_tokens, or the room behind "
                f"the prompt, times those of each token and n; got {of_outputs}, lower max_tokens, logprobs or n",
            )
        if of_prompts and of_prompts + sum(_of_prompts(run.prepared) for run in runs) > (
            _PROMPTS_AT_ONCE * self.most_of_prompts
        ):
            raise _later("log-probabilities of prompts are on their way", wait_s)
        if of_outputs and sum(run.num_logprobs for run in runs) > _OUTPUTS_AT_ONCE * self.most_of_outputs:
            raise _later("log-probabilities are in answers under way", wait_s)


def _later(what: str, wait_s: float) -> ApiError:
    return ApiError(429, "queue_full", f"too many {what}: try again later", retry_after_s=wait_s)


def _of_prompts(prepared: Sequence[Prepared]) -> int:
    """Log-probabilities of prompts that an answer may hold: of each continuation, where it echoes the prompt."""
    total = 0
    for one in prepared:
        request = one.requests[0]
        if request.sampling.prompt_logprobs is not None:
            each = request.sampling.prompt_logprobs + 1
            total += len(request.prompt_token_ids) * each * request.sampling.n
    return total


def _of_outputs(prepared: Sequence[Prepared]) -> int:
    """The same of outputs, as long as they may become."""
    total = 0
    for one in prepared:
        request = one.requests[0]
        if request.sampling.logprobs is not None:
            room = request.max_total_tokens - len(request.prompt_token_ids)
            total += room * (request.sampling.logprobs + 1) * request.sampling.n
    return total
