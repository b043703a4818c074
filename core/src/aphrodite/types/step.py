"""What crosses the seam between scheduler and runner. Plain data: it may cross processes as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from aphrodite.types.shaping import PLAIN, Shaping

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class NewRow:
    """A sequence whole: one that starts, or starts again after preemption."""

    row: int
    tokens: tuple[int, ...]
    num_computed: int
    temperature: float
    seed: int
    child: int
    shaping: Shaping = PLAIN


class NewBlocks(NamedTuple):
    """Blocks appended to a row's table of one cache group, from entry `start` on."""

    row: int
    group: int
    start: int
    blocks: tuple[int, ...]


class ZeroBlocks(NamedTuple):
    """Blocks of one cache group that hold what is no number: zeroed before the step."""

    group: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class SchedulerOutput:
    """One step: who runs, how far. New sequences whole, the others as differences; arrays are by sequence, [S].

    rows        the device row of each sequence; epochs says which life of it: results of an older one are dropped
    num_new     tokens to compute
    num_logits  of these, how many (the last ones) want logits
    draws       1 if a token is drawn from the last
    max_k       longest sequence, new tokens included
    num_logprobs  likeliest tokens reported for every logit row; -1: no log-probabilities at all
    any_random  whether some draw has a temperature above 0
    any_truncated, any_edited, any_penalised  whether some draw's shaping does that
    zero_blocks  to be zeroed before anything else
    """

    new_rows: tuple[NewRow, ...]
    new_blocks: tuple[NewBlocks, ...]
    rows: Int32
    epochs: Int32
    num_new: Int32
    num_logits: Int32
    draws: Int32
    max_k: int
    num_logprobs: int
    any_random: bool
    any_truncated: bool = False
    any_edited: bool = False
    any_penalised: bool = False
    zero_blocks: tuple[ZeroBlocks, ...] = ()


@dataclass(frozen=True)
class Logprobs:
    """By logit row. values, ids [R, 1 + n]: the chosen token, then the n likeliest; rank [R] of the chosen."""

    values: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepOutput:
    """Results by logit row, packed in the order of the sequences. tokens [R]: -1 where the logits were not numbers."""

    tokens: npt.NDArray[np.int64]
    logprobs: Logprobs | None


class Pending(Protocol):
    """Results on their way. `result` waits for them; DeviceError if the step failed."""

    def done(self) -> bool: ...

    def result(self) -> StepOutput: ...


class Runner(Protocol):
    """What the engine drives. `submit` answers with whatever `sample` needs to know of the step. Steps run in the order
    in which they are submitted; the next may be submitted before the result of the last is read.

    late  host data that arrives after the forward pass was submitted (grammar masks); there is none yet
    """

    def submit(self, plan: SchedulerOutput) -> Any: ...

    def sample(self, step: Any, late: None = None) -> Pending: ...

    def recover(self) -> None:
        """After a failure: wait until nothing of the steps submitted so far runs any more, and forget them. Rows are
        written whole by the plans to come. DeviceError if the device is lost."""
        ...

    def close(self) -> None: ...
