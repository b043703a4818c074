"""The engine between a scheduler and a device that fails or runs out of memory, while readers come and go."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from aphrodite.engine.engine import Engine
from aphrodite.types.request import Sequence
from aphrodite.types.step import SchedulerOutput, StepOutput
from tests.unit.sched.world import DeviceFailure, World, continuation


@dataclass
class Result:
    """A step that has run; whether it went well shows when it is read."""

    output: StepOutput
    fault: Callable[[], Exception | None]

    def done(self) -> bool:
        return True

    def result(self) -> StepOutput:
        error = self.fault()
        if error is not None:
            raise error
        return self.output


@dataclass
class FaultyRunner:
    """Runs plans on the world's device. `fault` says how a step fails when it is read."""

    world: World
    fault: Callable[[], Exception | None]
    recovered: int = 0

    def submit(self, plan: SchedulerOutput) -> SchedulerOutput:
        return plan

    def sample(self, step: SchedulerOutput, late: None = None) -> Result:
        return Result(self.world.run(step), self.fault)

    def recover(self) -> None:
        self.recovered += 1

    def close(self) -> None:
        pass


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
@pytest.mark.parametrize("error", [DeviceFailure, MemoryError])
def test_whatever_fails_whoever_ends_is_told(steps_in_flight: int, error: type[Exception]) -> None:
    """Of several steps that are read at once the first may have ended somebody, and a later one may have failed."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    num_failures = num_told = 0
    for _ in range(60):
        world = World(num_blocks=10, block_size=2)
        last_failed = False

        def fault() -> Exception | None:
            nonlocal last_failed
            last_failed = not last_failed and chance.random() < 0.15
            return error("injected") if last_failed else None

        runner = FaultyRunner(world, fault)
        engine = Engine(world.scheduler, runner, steps_in_flight)
        asked = [(world.add([place, 1, 2], most), most) for place, most in enumerate(chance.choices(range(1, 13), k=6))]
        told: list[Sequence] = []
        held: set[str] = set()
        for _ in range(2000):
            if not engine.has_work and not held:
                break
            news = engine.step() if engine.has_work else []
            engine.check()
            assert len({id(seq) for seq in news}) == len(news)
            told += [seq for seq in news if seq.finish_reason is not None]
            name = chance.choice(asked)[0].request.request_id
            if chance.random() < 0.1:
                engine.hold(name)
                held.add(name)
            elif held and (chance.random() < 0.3 or not engine.has_work):
                engine.release(held.pop())
        assert not engine.has_work
        assert sorted(id(seq) for seq in told) == sorted(id(seq) for seq, _ in asked), "each of them, once"
        for place, (seq, most) in enumerate(asked):
            whole: Any = continuation([place, 1, 2], most)
            assert seq.tokens == whole if seq.finish_reason == "length" else seq.error is not None
        num_failures += runner.recovered
        num_told += len(told)
    assert num_failures > 60 and num_told == 360
