"""The engine: add, abort, step. One thread at a time, no sockets, no text."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from aphrodite.errors import CapacityError, told
from aphrodite.platform.exhaustion import is_out_of_memory
from aphrodite.sched.scheduler import Scheduler
from aphrodite.types.request import Request, Sequence
from aphrodite.types.stats import EngineStats
from aphrodite.types.step import Pending, Runner, SchedulerOutput

_LOG = logging.getLogger("aphrodite")
_MOST_FAILURES = 2  # in a row: what fails twice will fail again


class Engine:
    """Drives a runner by a scheduler's plans.

    steps_in_flight  steps that run while the next is scheduled; 0: each step's results are waited for
    clock            seconds, for the times of requests

        host     plan 1 | plan 2 | settle 1, plan 3 | settle 2, plan 4 | ...
        device            step 1 | step 2           | step 3           | ...
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        steps_in_flight: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._steps_in_flight = steps_in_flight
        self._clock = clock
        self._flights: deque[tuple[SchedulerOutput, Pending]] = deque()
        self._num_steps = 0  # settled
        self._num_failures = 0  # since the last step that went well
        self._tried: SchedulerOutput | None = None  # the step that is being submitted or settled
        self._changed: dict[int, Sequence] = {}  # by the steps settled in this call, one of which may yet fail

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do; true until the last step in flight is settled."""
        return self._scheduler.has_work or bool(self._flights)

    @property
    def num_in_flight(self) -> int:
        """Steps submitted and not settled."""
        return len(self._flights)

    def add(self, request: Request, arrival_s: float | None = None) -> Sequence:
        """Queue a request, which arrived at that time of the clock (absent: now). The sequence that comes back is
        read-only for the caller."""
        seq = self._scheduler.add(request)
        seq.times.arrival_s = self._clock() if arrival_s is None else arrival_s
        return seq

    def abort(self, request_id: str, reason: str | None = "abort") -> None:
        """Drop a request, wherever it stands, with that finish_reason."""
        self._scheduler.abort(request_id, reason)

    def hold(self, request_id: str) -> None:
        """Spend no step on a request until it is released; it keeps its tokens and its place."""
        self._scheduler.hold(request_id)

    def release(self, request_id: str) -> None:
        """Let a request that is held go on."""
        self._scheduler.release(request_id)

    def step(self) -> list[Sequence]:
        """Schedule and submit a step, settle the one before. Returns the sequences that have got something.

        A step that fails is taken back, with all that were submitted after it, and its sequences start over from the
        tokens that the host has. The second failure in a row is raised: abort the sequences, or step again. If memory
        ran out, smaller steps are tried; if it runs out there too, the longest sequence of the step ends with an error
        of its own, is returned, and the others go on.
        """
        try:
            return self._step()
        except Exception as error:
            if self._tried is not None and is_out_of_memory(error):
                self._shed(self._tried, error)
                return self._take_changed()
            self.recover()
            self._num_failures += 1
            if self._num_failures >= _MOST_FAILURES:
                self._num_failures = 0
                raise
            _LOG.warning("a step failed and is run again: %s", told(error))
            return self._take_changed()
        except BaseException:
            self.recover()
            raise

    def _shed(self, plan: SchedulerOutput, error: Exception) -> None:
        """Memory ran out in a step: start over with smaller ones, or without its longest sequence."""
        what = CapacityError(
            "memory ran out while the request was computed, and again in a smaller step, of which it was the longest: "
            "try again later, or with fewer tokens",
            subject="memory",
        )
        self._flights.clear()
        ended = self._scheduler.shed(plan, what)
        self._runner.recover()
        said = f"memory ran out in a step of {plan.num_new.sum()} tokens ({told(error)})"
        if ended is None:
            _LOG.warning("%s: it is run again in steps of at most %d", said, self._scheduler.budget.num_tokens)
            return
        ended.times.finished_s = self._clock()
        self._changed[id(ended)] = ended
        _LOG.error("%s: its longest request, %s, has ended with an error", said, ended.request.request_id)

    def _take_changed(self) -> list[Sequence]:
        found, self._changed = list(self._changed.values()), {}
        return found

    def _step(self) -> list[Sequence]:
        self._tried, self._changed = None, {}
        plan = self._scheduler.schedule()
        for seq in self._scheduler.started:
            seq.times.first_scheduled_s = seq.times.first_scheduled_s or self._clock()
        if plan is not None:
            self._tried = plan
            self._flights.append((plan, self._runner.sample(self._runner.submit(plan))))
        if plan is None or self._scheduler.must_settle:
            return self._settle(0 if self._scheduler.must_settle else len(self._flights) - 1)
        return self._settle(self._steps_in_flight)

    def _settle(self, num_left: int) -> list[Sequence]:
        """Wait for the oldest steps until so many are in flight."""
        while len(self._flights) > max(0, num_left):
            plan, pending = self._flights[0]
            self._tried = plan
            result = pending.result()
            self._flights.popleft()
            self._num_steps += 1
            self._num_failures = 0
            settled = self._scheduler.update(plan, result)
            self._note_times(settled)
            if not self._changed and len(self._flights) <= max(0, num_left):
                return settled
            self._changed.update((id(seq), seq) for seq in settled)
        return self._take_changed()

    def _note_times(self, settled: list[Sequence]) -> None:
        """When a first token came, and when it was over."""
        news = [seq for seq in settled if seq.times.first_token_s is None or seq.finish_reason is not None]
        for seq in news:
            now = self._clock()
            if seq.times.first_token_s is None and seq.num_output:
                seq.times.first_token_s = now
            if seq.finish_reason is not None:
                seq.times.finished_s = now

    def recover(self) -> None:
        """Wait for the device, forget the steps in flight, and let every running sequence start over: the device's
        rows are a cache of what the host knows, written anew at any time. DeviceError if the device is lost."""
        self._flights.clear()
        self._scheduler.fail()
        self._runner.recover()

    def reset_prefix_cache(self) -> None:
        """Forget all cached blocks: nothing computed so far is used for requests to come."""
        self._scheduler.reset_prefix_cache()

    def stats(self) -> EngineStats:
        """How full it is, and what it has done."""
        return replace(self._scheduler.stats(), num_steps=self._num_steps)

    def not_started(self) -> list[str]:
        """The ids of requests of which nothing has been computed yet."""
        return [seq.request.request_id for seq in self._scheduler.live() if seq.times.first_scheduled_s is None]

    def check(self) -> None:
        """AssertionError unless the scheduler's books balance."""
        self._scheduler.check()

    def close(self) -> None:
        """Let go of the device, the sequences and the blocks' books. The engine cannot be used afterwards."""
        self._flights.clear()
        try:
            self._runner.close()
        finally:
            del self._runner, self._scheduler
