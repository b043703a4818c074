"""A server over a real engine in the tests' own process, some part of which may be handed in by the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from aphrodite.build import Assembled, assemble
from aphrodite.config.engine import config_from
from aphrodite.engine.engine import Engine
from aphrodite.engine.frontend import Frontend
from aphrodite.engine.host import FixedHost, Model
from aphrodite.engine.local import card_of
from aphrodite.engine.loop import EngineLoop
from aphrodite.types.stats import EngineStats
from aphrodite.types.step import Pending, Runner, SchedulerOutput, StepOutput
from tests.server.serving import Serving, serving
from tests.support.devices import block_size
from tests.support.waiting import until

Wrap = Callable[[Runner], Runner]
T = TypeVar("T")


@dataclass(frozen=True)
class Real:
    """A server, and the thread that its engine lives on."""

    server: Serving
    loop: EngineLoop

    @property
    def stats(self) -> EngineStats:
        return self.loop.call(Engine.stats)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The engine takes no step until the block ends: what is asked meanwhile reaches it all at once."""
        reached, released = threading.Event(), threading.Event()

        def hold(_: Engine) -> None:
            reached.set()
            released.wait(60)

        holder = threading.Thread(target=self.loop.call, args=(hold,))
        holder.start()
        try:
            reached.wait(60)
            yield
        finally:
            released.set()
            holder.join()

    def together(self, asks: Sequence[Callable[[], T]]) -> list[T]:
        """What requests give, each from a thread of its own, that reach the engine at once and in this order."""
        with ThreadPoolExecutor(len(asks)) as pool:
            with self.held():
                found: list[Future[T]] = []
                for ask in asks:
                    found.append(pool.submit(ask))
                    until(lambda: len(self.server.service.runs) == len(found))
            return [one.result() for one in found]

    def check_idle(self) -> None:
        """Nothing is left of any request, and the engine's books balance."""
        self.loop.call(Engine.check)
        stats = self.stats
        assert stats.num_running == stats.num_waiting == stats.kv_blocks_leaked == 0
        assert stats.kv_blocks_free == stats.kv_blocks_total
        assert not self.server.service.runs and not self.server.service.admission.num_taken


@contextmanager
def real(
    folder: Path,
    device: str,
    cache_tokens: int,
    *,
    wrap: Wrap = lambda runner: runner,
    service: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> Iterator[Real]:
    """Serve a checkpoint; its runner is what `wrap` makes of the engine's."""
    num_blocks = -(-cache_tokens // block_size(device))
    settings = {"dtype": "float32", "max_model_len": 256, "num_blocks": num_blocks, **settings}
    config = config_from({"model": str(folder), "device": device, **settings})
    made: list[Assembled] = []

    def make() -> Engine:
        found = assemble(config)
        made.append(found)
        engine = found.engine
        return Engine(engine._scheduler, wrap(engine._runner), found.blueprint.sizes.steps_in_flight)

    loop = EngineLoop(make)
    try:
        model = Model(loop, Frontend.of(card_of(made[0].blueprint)))
        with serving(folder, host=FixedHost(model), **service) as server:
            server.service.metrics.stats = lambda: loop.call(Engine.stats)
            yield Real(server, loop)
    finally:
        loop.close()


@dataclass
class Failing:
    """A runner whose steps fail where `fails` gives an error for their plan.

    is_late  whether the error comes with the step's result, as from a device that runs behind; else at submission
    """

    inner: Runner
    fails: Callable[[SchedulerOutput], BaseException | None]
    is_late: bool = False
    num_failures: int = 0

    def submit(self, plan: SchedulerOutput) -> Any:
        error = self.fails(plan)
        if error is not None and not self.is_late:
            self.num_failures += 1
            raise error
        return self.inner.submit(plan), error

    def sample(self, step: Any, late: None = None) -> Pending:
        return _Late(self, self.inner.sample(step[0]), step[1])

    def recover(self) -> None:
        self.inner.recover()

    def close(self) -> None:
        self.inner.close()


@dataclass(frozen=True)
class _Late:
    """Results that may not come."""

    runner: Failing
    inner: Pending
    error: BaseException | None

    def done(self) -> bool:
        return self.inner.done()

    def result(self) -> StepOutput:
        if self.error is not None:
            self.runner.num_failures += 1
            raise self.error
        return self.inner.result()
