"""The scheduler: one token budget a step, shared by sequences in the order of a policy.

There are no phases. A sequence has tokens and a count of them already computed; a prompt, a chunk of one, a decode step
and a resumed sequence are the same case: compute the next tokens until none is pending, then draw.

    tokens   [ computed | scheduled now | still pending ]

Several steps may be scheduled before the first of them is settled (`update`, in their order). What a step computes, and
that it draws a token, is counted when it is scheduled; which token that was is known when it is settled. So a length is
never overrun, and an end token by as many slots as there are steps in flight: their results belong to an old epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from aphrodite.errors import AphroditeError
from aphrodite.kv.manager import Change, KVCacheManager
from aphrodite.sched.batcher import Batcher
from aphrodite.sched.lifecycle import Lifecycle
from aphrodite.sched.plan import Budget
from aphrodite.sched.regimes import Regimes
from aphrodite.sched.relief import Relief
from aphrodite.sched.settle import settle
from aphrodite.types.request import Request, Sequence
from aphrodite.types.stats import EngineStats
from aphrodite.types.step import SchedulerOutput, StepOutput, ZeroBlocks

__all__ = ["Budget", "Scheduler"]


class _Flight(NamedTuple):
    """What is to be taken back of a step in flight: blocks that it has published, and those that it was to zero."""

    fresh: list[Change]
    zeroed: tuple[ZeroBlocks, ...]


class Scheduler:
    """Owns all sequences. `schedule` says what the next step computes, `update` settles its results, `fail` takes all
    steps in flight back.

    regimes  lengths, ascending, beyond each of which all keys and values of a sequence are others
    """

    def __init__(self, kv: KVCacheManager, budget: Budget, policy: str = "fcfs", regimes: tuple[int, ...] = ()) -> None:
        assert budget.num_logits >= 1 and budget.num_tokens >= 1 and budget.num_seqs >= 1
        self.kv = kv
        self._lifecycle = Lifecycle(kv, budget.num_seqs, policy, Regimes(regimes))
        self._batcher = Batcher(self._lifecycle)
        self._relief = Relief(budget)
        self._in_flight: deque[_Flight] = deque()  # plans that are not settled yet

    # ---- requests -----------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether there is somebody to schedule; who is held is not."""
        return self._lifecycle.has_work

    def add(self, request: Request) -> Sequence:
        """Queue a request. CapacityError if it could not run even alone."""
        return self._lifecycle.add(request)

    def abort(self, request_id: str, reason: str | None = "abort") -> None:
        """Drop a request at once, wherever it stands; unknown ids are ignored (it may have finished). `reason` is what
        its readers see; None where they are told otherwise."""
        seq = self._lifecycle.get(request_id)
        if seq is not None:
            self._lifecycle.finish(seq, reason)

    def hold(self, request_id: str) -> None:
        """Spend nothing on a request until it is released: nobody reads what it gets. Unknown ids are ignored."""
        seq = self._lifecycle.get(request_id)
        if seq is not None:
            self._lifecycle.hold(seq)

    def release(self, request_id: str) -> None:
        """Let a request that is held go on, from its old place in the queue. Others are ignored."""
        seq = self._lifecycle.get(request_id)
        if seq is not None:
            self._lifecycle.release(seq)

    def live(self) -> Iterator[Sequence]:
        """Every sequence that has not finished."""
        return self._lifecycle.live()

    # ---- steps --------------------------------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """What the next step may hold."""
        return self._relief.budget

    @property
    def must_settle(self) -> bool:
        """Whether the last plan left somebody out for want of blocks. Nobody is preempted while a step is in flight:
        what it draws would be lost, and may end somebody and free blocks. Settle all steps, then schedule."""
        return self._batcher.must_settle

    @property
    def started(self) -> list[Sequence]:
        """The sequences that the last plan starts, or starts again."""
        return self._batcher.started

    def schedule(self) -> SchedulerOutput | None:
        """The next step, or None when nothing can be scheduled."""
        step = self._batcher.batch(self._relief.budget, may_preempt=not self._in_flight)
        if step is not None:
            self._lifecycle.rows.schedule(step.rows, step.num_new, step.draws)
            self._in_flight.append(_Flight(self._batcher.fresh, step.zero_blocks))
            self.kv.clean()
        return step

    def update(self, plan: SchedulerOutput, result: StepOutput) -> list[Sequence]:
        """Settle the oldest step in flight. Returns the sequences that have got something."""
        self._in_flight.popleft()
        if self._relief.is_on:
            self._relief.succeed()
        return settle(self._lifecycle, plan, result)

    def fail(self) -> None:
        """Take all steps in flight back: what they published is found no more, and every running sequence starts over
        from the tokens that the host has. The device's rows are written anew as they do."""
        for flight in self._in_flight:
            self.kv.unpublish(flight.fresh)
            self.kv.soil(flight.zeroed)  # perhaps it was not
        self._in_flight.clear()
        for seq in list(self._lifecycle.running):
            self._lifecycle.preempt(seq)

    def shed(self, plan: SchedulerOutput, error: AphroditeError) -> Sequence | None:
        """Memory has run out in a step: as `fail`, and steps are smaller for a while. If that was tried already, the
        longest sequence of the step ends with this error, and is returned: the others can go on without it."""
        victim = self._relief.shrink(plan, self._lifecycle.rows)
        self.fail()
        if victim is not None:
            victim.error = error
            self._lifecycle.finish(victim, "error")
        return victim

    # ---- state --------------------------------------------------------------------------------------------------

    def reset_prefix_cache(self) -> None:
        """Forget all cached blocks; running sequences keep theirs."""
        self.kv.reset()

    def stats(self) -> EngineStats:
        """How full it is, and what it has done."""
        return self._lifecycle.stats()

    def check(self) -> None:
        """AssertionError unless blocks, rows and queues agree with one another."""
        self._lifecycle.check(len(self._in_flight))
