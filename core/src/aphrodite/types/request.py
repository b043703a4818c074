"""A request as it enters the engine, and a sequence as the scheduler carries it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from aphrodite.errors import AphroditeError
from aphrodite.types.sampling_params import SamplingParams
from aphrodite.types.shaping import PLAIN, Shaping


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be continued. Checked already: ids are in the vocabulary, it fits, its seed is drawn.

    shaping  what the device needs to know of `sampling`, beside the temperature
    child    which of the prompt's `n` continuations: a lane of its own in the random counter
    priority    lower goes first, where the scheduler's policy is "priority"
    cache_salt  cached blocks are shared by requests of one salt alone
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    stop_ids: frozenset[int]
    max_total_tokens: int  # prompt and output; generation ends with "length" here
    shaping: Shaping = PLAIN
    child: int = 0
    priority: int = 0
    cache_salt: str | None = None


class Status(enum.Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    RUNNING = "running"
    HELD = "held"  # out of the queue until its reader goes on
    FINISHED = "finished"


@dataclass
class Times:
    """When things happened to a request, in seconds of time.monotonic(); None: not yet. Written by the engine, for the
    scheduler has no clock."""

    arrival_s: float = 0.0
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None


@dataclass(slots=True)  # read for each row of each step
class Sequence:
    """How far a request has come. Owned by the scheduler; nobody else writes it, and its consumers may read it from
    another thread: `tokens` and `logprobs` only grow, `prompt_logprobs` are all there when the first token is, and
    `finish_reason` is set last.

    tokens        prompt and output, all that the host knows
    num_computed  of these, how many have their keys and values in the cache; up to a block behind while it decodes
    blocks        by cache group: block ids in order, 0 for those behind a sliding window
    digests       names of its full blocks in the prefix cache, as far as anybody asked for them
    num_adopted, num_published  of its blocks, how many came from the prefix cache, and how many can be found there
    arrival       its number among all sequences
    reads_cache   whether it may start from cached blocks
    regime        which range of lengths it is in: keys and values of another one are not its own
    num_cached_tokens  tokens that came from the prefix cache when it first started; None before
    exhausted_at  tokens of it that would have been computed by the end of a step in which memory ran out, and of which
                  it was the longest; 0 if there was none
    error         why its finish_reason is "error"; None: its logits were no numbers
    row, epoch    its place on the device; results of another epoch are not its own
    """

    request: Request
    tokens: list[int]
    blocks: list[list[int]]
    num_computed: int = 0
    status: Status = Status.WAITING
    row: int = -1
    epoch: int = 0
    finish_reason: str | None = None
    stop_reason: int | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    num_preemptions: int = 0
    arrival: int = 0
    digests: list[bytes] = field(default_factory=list)
    num_adopted: int = 0
    num_published: int = 0
    reads_cache: bool = True
    regime: int = 0
    num_cached_tokens: int | None = None
    exhausted_at: int = 0
    error: AphroditeError | None = None
    times: Times = field(default_factory=Times)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - len(self.request.prompt_token_ids)

    @property
    def num_pending(self) -> int:
        """Known tokens not yet computed; 1 in steady decode."""
        return len(self.tokens) - self.num_computed

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether log-probabilities of prompt tokens are asked for and not all here."""
        wanted = self.request.sampling.prompt_logprobs is not None
        return wanted and len(self.prompt_logprobs) < len(self.request.prompt_token_ids) - 1


@dataclass(frozen=True)
class TokenLogprobs:
    """One position: log-probability and rank of the chosen token, then the likeliest ids with theirs."""

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]
