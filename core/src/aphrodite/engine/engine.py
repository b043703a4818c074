"""The synchronous engine: add, abort, step. One thread, no sockets, no text."""

from __future__ import annotations

from aphrodite.sched.scheduler import Scheduler
from aphrodite.types.request import Request, Sequence
from aphrodite.types.step import Runner


class Engine:
    """Drives a runner by a scheduler's plans."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def add(self, request: Request) -> Sequence:
        """Queue a request; the sequence that comes back is read-only for the caller."""
        return self._scheduler.add(request)

    def abort(self, request_id: str) -> None:
        """Drop a request, wherever it stands."""
        self._scheduler.abort(request_id)

    def step(self) -> list[Sequence]:
        """Schedule, execute, update. Returns the sequences that changed. If the device fails, the error is raised and
        the step's sequences wait to start over: abort them, or step again."""
        plan = self._scheduler.schedule()
        if plan is None:
            return []
        try:
            step = self._runner.submit(plan)
            result = self._runner.sample(step).result()
        except BaseException:
            self._scheduler.fail(plan)
            raise
        return self._scheduler.update(plan, result)

    def reset_prefix_cache(self) -> None:
        """Forget all cached blocks: nothing computed so far is used for requests to come."""
        self._scheduler.reset_prefix_cache()

    def check(self) -> None:
        """AssertionError unless the scheduler's books balance."""
        self._scheduler.check()

    def close(self) -> None:
        """Let go of the device, the sequences and the blocks' books. The engine cannot be used afterwards."""
        try:
            self._runner.close()
        finally:
            del self._runner, self._scheduler
