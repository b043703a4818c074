"""The scheduler's whole life at random: arrivals, aborts, preemptions, shared prefixes, failures, resets.

Every step is checked by the books (`check`) and by a device that compares all that attention reads with what should
stand there; at the end every request has the tokens that it would have got alone, and every block is free.
"""

from __future__ import annotations

import time
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from aphrodite.sched.scheduler import Budget
from aphrodite.types.request import Sequence, Status
from tests.unit.sched.world import FULL, World, continuation, sliding

TRUNKS = ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [1, 2, 3, 4, 9, 9, 9, 9], [7] * 10)
LONGEST = 12 + 4 + 12  # trunk, tail, output
NUM_STEPS = 50_000
GROUPS = ((FULL,), (FULL,), (FULL, sliding(3)), (sliding(1), FULL, sliding(6)), (sliding(4),))


class Life(RuleBasedStateMachine):
    """A small world, so that blocks, rows and budget run out all the time."""

    seen: ClassVar[dict[str, int]] = {
        "steps": 0,
        "preemptions": 0,
        "cached": 0,
        "failed steps": 0,
        "errors": 0,
        "aborts": 0,
        "resets": 0,
        "overlapped": 0,
        "zeroed": 0,
    }

    @initialize(
        spare=st.integers(0, 10),
        block_size=st.integers(1, 3),
        budget=st.builds(
            Budget, num_tokens=st.integers(1, 20), num_seqs=st.integers(1, 5), num_logits=st.integers(1, 8)
        ),
        groups=st.sampled_from(GROUPS),
        policy=st.sampled_from(["fcfs", "priority"]),
        steps_in_flight=st.integers(0, 2),
    )
    def begin(
        self,
        spare: int,
        block_size: int,
        budget: Budget,
        groups: tuple[object, ...],
        policy: str,
        steps_in_flight: int,
    ) -> None:
        num_blocks = -(-(LONGEST - 1) // block_size) + spare
        self.world = World(
            num_blocks=num_blocks,
            block_size=block_size,
            budget=budget,
            groups=groups,  # type: ignore[arg-type]
            policy=policy,
            steps_in_flight=steps_in_flight,
        )
        self.asked: list[tuple[Sequence, list[int], int]] = []
        self.aborted: set[str] = set()

    @rule(
        trunk=st.sampled_from(TRUNKS),
        length=st.integers(1, 12),
        tail=st.lists(st.integers(0, 2), max_size=4),
        max_tokens=st.integers(1, 12),
        priority=st.integers(0, 2),
        salt=st.sampled_from([None, None, None, "a"]),
        prompt_logprobs=st.sampled_from([None, None, None, None, 0]),
        logprobs=st.sampled_from([None, None, 1]),
        broken_from=st.sampled_from([None, None, None, None, None, 0, 3, 9]),
    )
    def add(
        self,
        trunk: list[int],
        length: int,
        tail: list[int],
        max_tokens: int,
        priority: int,
        salt: str | None,
        prompt_logprobs: int | None,
        logprobs: int | None,
        broken_from: int | None,
    ) -> None:
        prompt = [*trunk[:length], *tail]
        seq = self.world.add(
            prompt, max_tokens, priority=priority, salt=salt, prompt_logprobs=prompt_logprobs, logprobs=logprobs
        )
        if broken_from is not None:
            self.world.broken[seq.request.request_id] = broken_from
        self.asked.append((seq, prompt, max_tokens))
        self.world.scheduler.check()

    @rule(count=st.integers(1, 40))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.world.step()

    @rule(pick=st.integers(0, 100))
    def abort(self, pick: int) -> None:
        live = list(self.world.scheduler.live())
        if live:
            self.drop(live[pick % len(live)])

    @rule(pick=st.integers(0, 100))
    def abort_while_a_step_runs(self, pick: int) -> None:
        plan = self.world.plan()
        if plan is not None:
            self.world.flights.append((plan, self.world.run(plan)))
            self.world.steps += 1
            live = list(self.world.scheduler.live())
            if live:
                self.drop(live[pick % len(live)])
            self.world.settle(self.world.steps_in_flight)

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule()
    def fail(self) -> None:
        self.world.device.fails = True
        self.world.step()
        self.seen["failed steps"] += not self.world.device.fails
        self.world.device.fails = False

    @rule(pick=st.integers(0, 100))
    def preempt(self, pick: int) -> None:
        running = [seq for seq in self.world.scheduler.live() if seq.status is Status.RUNNING]
        if running:
            self.world.scheduler._preempt(running[pick % len(running)])
            self.world.scheduler.check()

    @rule()
    def reset(self) -> None:
        self.world.scheduler.reset_prefix_cache()
        self.world.scheduler.check()
        self.seen["resets"] += 1

    def drop(self, seq: Sequence) -> None:
        self.world.scheduler.abort(seq.request.request_id)
        self.world.scheduler.check()
        self.aborted.add(seq.request.request_id)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.drain()
        for seq, prompt, max_tokens in self.asked:
            whole, name = continuation(prompt, max_tokens), seq.request.request_id
            assert seq.status is Status.FINISHED
            assert seq.tokens == whole[: len(seq.tokens)]
            if seq.finish_reason == "length":
                assert len(seq.tokens) == len(whole)
            else:
                assert name in (self.aborted if seq.finish_reason == "abort" else self.world.broken), seq.finish_reason
            self.seen["preemptions"] += seq.num_preemptions
            self.seen["cached"] += bool(seq.num_cached_tokens)
            self.seen["errors"] += seq.finish_reason == "error"
        self.seen["aborts"] += len(self.aborted)
        self.seen["steps"] += self.world.steps
        self.seen["overlapped"] += self.world.num_overlapped
        self.seen["zeroed"] += len(self.world.device.zeroed)


def live_for(num_steps: int) -> None:
    """Random lives until that many steps have been checked."""
    Life.seen = dict.fromkeys(Life.seen, 0)
    start = time.perf_counter()
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    while Life.seen["steps"] < num_steps:
        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=100,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=checks,
                database=None,
                phases=[Phase.generate],  # shrinking takes minutes; add it to understand a failure
                print_blob=True,
            ),
        )
    print(f"{time.perf_counter() - start:.0f} s: {Life.seen}")
    assert all(Life.seen.values()), Life.seen


def test_whoever_comes_and_goes_the_books_balance() -> None:
    live_for(3_000)


@pytest.mark.slow
def test_the_books_balance_for_50_000_steps() -> None:
    live_for(NUM_STEPS)
