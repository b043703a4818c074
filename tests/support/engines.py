"""Engines as the parity tests want them, and what they are watched for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aphrodite import LLM
from aphrodite.engine.engine import Engine
from aphrodite.kv.pool import BlockPool
from aphrodite.sched.lifecycle import Lifecycle
from tests.support.devices import block_size
from tests.support.waiting import until


def engine(folder: object, device: str, cache_tokens: int = 1600, **settings: Any) -> LLM:
    """An engine that computes in float32, with steps small enough that prompts are cut at odd places."""
    size = settings.get("block_size") or block_size(device)
    settings = {
        "dtype": "float32",
        "max_model_len": 400,
        "num_blocks": -(-cache_tokens // size),
        "max_num_batched_tokens": 37,
        **settings,
    }
    return LLM(str(folder), device=device, **settings)


def roomy(folder: object, device: str, cache_tokens: int = 6400, **settings: Any) -> LLM:
    """An engine that computes in float32, with room enough that steps are cut nowhere."""
    num_blocks = cache_tokens // block_size(device)
    settings = {"dtype": "float32", "max_model_len": 200, "num_blocks": num_blocks, **settings}
    return LLM(str(folder), device=device, **settings)


@contextmanager
def one_a_device(make: Callable[[str], LLM]) -> Iterator[Callable[[str], LLM]]:
    """Gives an engine for a device, each made once; all are closed at the end."""
    made: dict[str, LLM] = {}

    def get(device: str) -> LLM:
        if device not in made:
            made[device] = make(device)
        return made[device]

    yield get
    for llm in made.values():
        llm.close()


@contextmanager
def never_ending(engine: Engine, num_steps: int = 20) -> Iterator[None]:
    """Within the block an engine takes so many steps as it does, and then so slow ones that none of its requests ends
    before the block does, unless it is ended."""
    step, over = engine.step, threading.Event()
    left = num_steps

    def slowly() -> Any:
        nonlocal left
        if left:
            left -= 1
        else:
            over.wait(0.5)
        return step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "step", slowly)
        try:
            yield
        finally:
            over.set()


def cache_groups(llm: LLM) -> list[tuple[str, int | None, int]]:
    """Kind, window and number of layers of each cache group."""
    return [(group.kind, group.window, len(group.layers)) for group in llm.blueprint.sizes.kv.groups]


def check_idle(llm: LLM) -> None:
    """Wait until the engine has nothing to do, and check its books."""
    loop = llm._local.loop
    until(lambda: not loop.call(lambda engine: engine.has_work))  # steps in flight are settled after their requests
    loop.call(Engine.check)


def watch_preemption(patch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that a sequence had drawn, for each that is preempted from now on; the books are checked."""
    preempted: list[int] = []
    original = Lifecycle.preempt

    def spy(self: Lifecycle, seq: Any) -> None:
        preempted.append(seq.num_output)
        original(self, seq)
        self.check(num_in_flight=0)  # nobody is preempted beside a step in flight

    patch.setattr(Lifecycle, "preempt", spy)
    return preempted


def make_pools_unlike(patch: pytest.MonkeyPatch) -> None:
    """Every second pool deals its blocks from the other end, so that groups hold a token in different blocks."""
    made: list[BlockPool] = []
    original = BlockPool.__init__

    def init(self: BlockPool, num_blocks: int) -> None:
        original(self, num_blocks)
        if len(made) % 2:
            self._next, self._previous = self._previous, self._next  # the ring of free blocks, the other way round
        made.append(self)

    patch.setattr(BlockPool, "__init__", init)
