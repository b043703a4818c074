"""The engine's thread: it says when the last of the work is done, once. Where it fails, nobody waits for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aphrodite.build import assemble
from aphrodite.config.engine import config_from
from aphrodite.engine.client import Failure, News
from aphrodite.engine.engine import Engine
from aphrodite.engine.loop import EngineLoop
from aphrodite.errors import DeviceError, EngineDied
from aphrodite.types.request import Request
from aphrodite.types.sampling_params import SamplingParams
from aphrodite.types.stats import EngineStats
from tests.support.checkpoints import Checkpoints


@pytest.fixture(params=["cpu", "toy"])
def told(
    request: pytest.FixtureRequest, checkpoints: Checkpoints
) -> Iterator[tuple[EngineLoop, queue.Queue[EngineStats]]]:
    config = config_from({"model": str(checkpoints.llama()), "device": request.param, "num_blocks": 40})
    rests: queue.Queue[EngineStats] = queue.Queue()
    loop = EngineLoop(lambda: assemble(config).engine, lambda engine: rests.put(engine.stats()))
    yield loop, rests
    loop.close()


def asked(name: str, max_tokens: int) -> Request:
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    return Request(name, (5, 6, 7), sampling, 0, frozenset(), 3 + max_tokens)


def test_it_rests_once_the_last_has_ended(told: tuple[EngineLoop, queue.Queue[EngineStats]]) -> None:
    loop, rests = told
    for _ in range(2):
        loop.add([asked("a", 3), asked("b", 6)], lambda news: None)
        stats = rests.get(timeout=20)
        assert stats.num_running == stats.num_waiting == 0 and stats.kv_blocks_free == stats.kv_blocks_total
    assert loop.call(Engine.stats).num_steps >= 10
    assert rests.empty()


def test_it_rests_when_the_last_is_aborted(told: tuple[EngineLoop, queue.Queue[EngineStats]]) -> None:
    loop, rests = told
    loop.add([asked("a", 100)], lambda news: loop.abort(["a"]))
    stats = rests.get(timeout=20)
    assert stats.num_running == 0 and stats.kv_blocks_free == stats.kv_blocks_total


# ---- where it fails -------------------------------------------------------------------------------------------------


class Panic(BaseException):
    """What extensions written in Rust raise when they panic."""


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def in_a_step(engine: Any, error: BaseException) -> None:
    """Whoever undoes a failed step fails as well."""
    engine.step = engine._scheduler.abort = raising(error)


def in_an_abort(engine: Any, error: BaseException) -> None:
    engine.abort = raising(error)


def raising(error: BaseException) -> Callable[..., Any]:
    def fails(*args: Any, **more: Any) -> Any:
        raise error

    return fails


@pytest.mark.parametrize("error", [ValueError("the\nfirst"), UnprintableError(), Panic("a panic")], ids=repr)
@pytest.mark.parametrize("where", [in_a_step, in_an_abort])
def test_a_thread_that_fails_tells_all_who_wait_and_all_to_come(
    where: Callable[[Any, BaseException], None], error: BaseException, checkpoints: Checkpoints
) -> None:
    config = config_from({"model": str(checkpoints.llama()), "device": "cpu", "num_blocks": 40})
    ends: queue.Queue[EngineDied] = queue.Queue()
    loop = EngineLoop(lambda: assemble(config).engine, fails=ends.put)
    told: queue.Queue[News] = queue.Queue()
    began, go_on = threading.Event(), threading.Event()
    loop.add([asked("a", 100)], told.put)
    while isinstance(told.get(timeout=20), Failure):
        raise AssertionError("it has not begun")

    def hold(engine: Engine) -> None:
        began.set()
        go_on.wait(20)
        where(engine, error)

    late: list[BaseException] = []

    def call() -> None:
        try:
            loop.call(Engine.stats)
        except BaseException as found:
            late.append(found)

    holder = threading.Thread(target=loop.call, args=(hold,))
    holder.start()
    began.wait(20)
    loop.abort(["a"] if where is in_an_abort else [])
    loop.add([asked("b", 5)], told.put)
    caller = threading.Thread(target=call)
    if where is in_an_abort:  # it stands behind what fails, and so it will never be done
        caller.start()
        while len(loop._inbox) < 3:
            pass
    go_on.set()
    died = ends.get(timeout=20)
    failed = set()
    while not told.empty():
        if isinstance(news := told.get(), Failure):
            failed |= set(news.request_ids)
            assert isinstance(news.error, (EngineDied, DeviceError))
    assert failed == {"a", "b"}
    assert "\n" not in str(died) and str(died).startswith(f"the engine has failed: {type(error).__name__}")
    if where is in_an_abort:
        caller.join(20)
        assert late == [died]
    assert loop.is_closed
    with pytest.raises(EngineDied):
        loop.add([asked("c", 5)], told.put)
    with pytest.raises(EngineDied):
        loop.call(Engine.stats)
    loop.abort(["a"])
    holder.join(20)
    loop.close()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Panic("a panic")], ids=repr)
def test_what_would_end_a_process_ends_the_requests_of_a_step(error: BaseException, checkpoints: Checkpoints) -> None:
    config = config_from({"model": str(checkpoints.llama()), "device": "cpu", "num_blocks": 40})
    loop = EngineLoop(lambda: assemble(config).engine)
    told: queue.Queue[News] = queue.Queue()
    runner: Any = loop.call(lambda engine: engine._runner)
    submit = runner.submit

    def once(plan: Any) -> Any:
        runner.submit = submit
        raise error

    runner.submit = once
    loop.add([asked("a", 5)], told.put)
    found = told.get(timeout=20)
    assert isinstance(found, Failure) and isinstance(found.error, DeviceError)
    assert type(error).__name__ in str(found.error)
    loop.add([asked("b", 5)], told.put)
    while (news := told.get(timeout=20)) and not isinstance(news, Failure) and news[0].finish_reason is None:
        pass
    assert not isinstance(news, Failure) and news[0].num_output == 5
    loop.close()
