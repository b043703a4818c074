"""The engine's thread: it says when the last of the work is done, once, however that ended."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from aphrodite.build import assemble
from aphrodite.config.engine import config_from
from aphrodite.engine.engine import Engine
from aphrodite.engine.loop import EngineLoop
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
