"""The scheduler's whole life at random: arrivals, aborts, holds, preemptions, shared prefixes, failures, memory
that runs out, resets, regimes.

Every step is checked by the books (`check`) and by a device that compares all that attention reads with what should
stand there; at the end every request has the tokens that it would have got alone, and every block is free.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sized
from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from aphrodite.kv.manager import KVCacheManager
from aphrodite.sched.batcher import Batcher
from aphrodite.sched.lifecycle import Lifecycle
from aphrodite.sched.plan import StepPlan
from aphrodite.sched.regimes import Regimes
from aphrodite.sched.scheduler import Budget, Scheduler
from aphrodite.types.request import Sequence, Status
from tests.unit.sched.world import FULL, World, continuation, sliding

TRUNKS = ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [1, 2, 3, 4, 9, 9, 9, 9], [7] * 10)
LONGEST = 12 + 4 + 12  # trunk, tail, output
NUM_STEPS = 50_000
GROUPS = ((FULL,), (FULL,), (FULL, sliding(3)), (sliding(1), FULL, sliding(6)), (sliding(4),))
REGIMES = ((), (), (9,), (3, 4, 15), (20,))
MUST_OCCUR = (
    "steps",
    "steps submitted while another was in flight",
    "plans that must settle first",
    "preempted for want of blocks",
    "preempted for a higher priority",
    "preempted at any moment",
    "requests that found a prefix",
    "requests that found the prefix of a step that had not run",
    "blocks given back behind a window",
    "crossings into another regime",
    "crossings while another step was in flight",
    "failures",
    "failures with steps in flight",
    "memory ran out",
    "memory ran out with steps in flight",
    "memory ran out in a step whose sequences were all held",
    "ended for want of memory",
    "steps larger than what memory ran out in",
    "no numbers: failed",
    "no numbers: computed again without the cache",
    "blocks zeroed",
    "aborted while waiting",
    "aborted in the middle of its prompt",
    "aborted while decoding",
    "aborted with its step in flight",
    "held while waiting",
    "held in the middle of its prompt",
    "held while decoding",
    "held with its step in flight",
    "released",
    "aborted while held",
    "all but the held ones ended",
    "resets",
    "finished with a prompt's log-probabilities",
)


class WatchedLifecycle(Lifecycle):
    """Says why somebody starts over or fails."""

    seen: Counter[str]
    in_flight: Sized

    def start_over(self, seq: Sequence) -> None:
        before = seq.regime
        super().start_over(seq)
        if seq.regime != before:
            self.seen["crossings into another regime"] += 1
            self.seen["crossings while another step was in flight"] += bool(self.in_flight)

    def preempt(self, seq: Sequence) -> None:
        adopted = seq.num_adopted > 0  # who may not read the cache has adopted nothing, once it has started over
        super().preempt(seq)
        self.seen["no numbers: computed again without the cache"] += adopted and not seq.reads_cache

    def finish(self, seq: Sequence, reason: str | None) -> None:
        super().finish(seq, reason)
        self.seen["no numbers: failed"] += reason == "error" and seq.error is None


class WatchedBatcher(Batcher):
    """Says why somebody is preempted."""

    seen: Counter[str]

    def _make_way(self, budget: Budget) -> None:
        before = self._count()
        super()._make_way(budget)
        self.seen["preempted for a higher priority"] += self._count() - before

    def _make_room(self, seq: Sequence, num_tokens: int, plan: StepPlan) -> bool:
        before = self._count()
        zeros = [table.count(0) for table in seq.blocks]
        has_room = super()._make_room(seq, num_tokens, plan)
        self.seen["preempted for want of blocks"] += self._count() - before
        if has_room:
            self.seen["blocks given back behind a window"] += sum(table.count(0) for table in seq.blocks) - sum(zeros)
        return has_room

    def _count(self) -> int:
        return self._lifecycle.stats().num_preemptions


class Watched(Scheduler):
    """A scheduler of watched parts."""

    def __init__(
        self, kv: KVCacheManager, budget: Budget, policy: str, regimes: tuple[int, ...], *, seen: Counter[str]
    ) -> None:
        super().__init__(kv, budget, policy, regimes)
        lifecycle = WatchedLifecycle(kv, budget.num_seqs, policy, Regimes(regimes))
        lifecycle.in_flight = self._in_flight
        self._lifecycle, self._batcher = lifecycle, WatchedBatcher(lifecycle)
        lifecycle.seen = self._batcher.seen = seen


class Life(RuleBasedStateMachine):
    """A small world, so that blocks, rows and budget run out all the time."""

    seen: ClassVar[Counter[str]] = Counter()

    @initialize(
        spare=st.sampled_from([0, 0, 1, 2, 3, 6, 10]),
        block_size=st.integers(1, 3),
        budget=st.builds(
            Budget, num_tokens=st.integers(1, 20), num_seqs=st.integers(1, 5), num_logits=st.integers(1, 8)
        ),
        groups=st.sampled_from(GROUPS),
        policy=st.sampled_from(["priority", "fcfs"]),
        steps_in_flight=st.integers(0, 2),
        regimes=st.sampled_from(REGIMES),
    )
    def begin(
        self,
        spare: int,
        block_size: int,
        budget: Budget,
        groups: tuple[object, ...],
        policy: str,
        steps_in_flight: int,
        regimes: tuple[int, ...],
    ) -> None:
        num_blocks = -(-(LONGEST - 1) // block_size) + spare
        self.world = World(
            num_blocks=num_blocks,
            block_size=block_size,
            budget=budget,
            groups=groups,  # type: ignore[arg-type]
            policy=policy,
            steps_in_flight=steps_in_flight,
            regimes=regimes,
            scheduler=partial(Watched, seen=self.seen),
        )
        self.asked: list[tuple[Sequence, list[int], int]] = []
        self.aborted: set[str] = set()
        self.short: set[str] = set()  # who ended for want of memory
        self.held: dict[str, tuple[Sequence, list[int]]] = {}  # with the tokens that each had by then

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
        seq = self.add_one(
            prompt, max_tokens, priority=priority, salt=salt, prompt_logprobs=prompt_logprobs, logprobs=logprobs
        )
        if broken_from is not None:
            self.world.broken[seq.request.request_id] = broken_from

    def add_one(self, prompt: list[int], max_tokens: int, **settings: Any) -> Sequence:
        seq = self.world.add(prompt, max_tokens, **settings)
        self.asked.append((seq, prompt, max_tokens))
        self.world.scheduler.check()
        return seq

    @rule(
        trunk=st.sampled_from(TRUNKS),
        length=st.integers(1, 12),
        count=st.integers(2, 6),
        max_tokens=st.integers(6, 12),
        better=st.booleans(),
    )
    def add_a_crowd(self, trunk: list[int], length: int, count: int, max_tokens: int, better: bool) -> None:
        for place in range(count):
            priority = 2 - place % 3 if better else 0
            self.add_one([*trunk[:length], place, place // 2], max_tokens, priority=priority)

    @rule(trunk=st.sampled_from(TRUNKS), length=st.integers(4, 12), max_tokens=st.integers(1, 12))
    def an_urgent_one_meets_a_full_house(self, trunk: list[int], length: int, max_tokens: int) -> None:
        for place in range(self.world.budget.num_seqs):
            self.add_one([place, *trunk[:2]], 12, priority=2)
        for _ in range(40):
            if self.world.scheduler._lifecycle.rows.num_free:
                self.step()
        self.add_one([8, *trunk[:length]], max_tokens, priority=-1)
        self.step()

    @rule(count=st.integers(1, 10))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def step(self) -> None:
        flying = bool(self.world.flights)
        new = {seq.request.request_id for seq in self.world.scheduler.live() if seq.num_cached_tokens is None}
        limit = self.world.scheduler.budget.num_tokens
        self.world.step()
        self.seen["steps larger than what memory ran out in"] += self.world.scheduler.budget.num_tokens > limit
        self.seen["plans that must settle first"] += self.world.scheduler.must_settle
        if flying:
            found = [seq for seq in self.world.scheduler.live() if seq.request.request_id in new]
            self.seen["requests that found the prefix of a step that had not run"] += sum(
                bool(seq.num_cached_tokens) for seq in found
            )

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

    @rule(pick=st.integers(0, 100))
    def hold(self, pick: int) -> None:
        live = list(self.world.scheduler.live())
        if live:
            self.hold_one(live[pick % len(live)])

    @rule(pick=st.integers(0, 100))
    def hold_while_a_step_runs(self, pick: int) -> None:
        plan = self.world.plan()
        if plan is not None:
            self.world.flights.append((plan, self.world.run(plan)))
            self.world.steps += 1
            self.hold(pick)
            self.world.settle(self.world.steps_in_flight)

    @rule(pick=st.integers(0, 100))
    def release(self, pick: int) -> None:
        if self.held:
            seq, tokens = self.held.pop(sorted(self.held)[pick % len(self.held)])
            assert seq.tokens == tokens, "who is held gets nothing"
            self.world.scheduler.release(seq.request.request_id)
            self.world.scheduler.check()
            self.seen["released"] += 1

    @rule()
    def all_but_the_held_ones_end(self) -> None:
        if self.held:
            self.world.drain()
            assert {seq.request.request_id for seq in self.world.scheduler.live()} == set(self.held)
            self.seen["all but the held ones ended"] += 1

    def hold_one(self, seq: Sequence) -> None:
        name = seq.request.request_id
        if name not in self.held:
            self.note("held", seq)
            self.held[name] = (seq, list(seq.tokens))
        self.world.scheduler.hold(name)
        self.world.scheduler.check()
        assert seq.status is Status.HELD and not any(seq.blocks) and seq.row < 0

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule()
    def fail(self) -> None:
        self.world.device.fails = True
        flying = bool(self.world.flights)
        self.step()
        failed = not self.world.device.fails
        self.seen["failures"] += failed
        self.seen["failures with steps in flight"] += failed and flying
        self.world.device.fails = False

    @rule(most=st.integers(0, 4), rows=st.integers(1, 3), count=st.integers(1, 4))
    def memory_is_short(self, most: int, rows: int, count: int) -> None:
        """For some steps, the device has memory for so many tokens, or rows, at a time."""
        self.world.device.holds = lambda plan: plan.num_new.sum() <= most and len(plan.rows) <= rows
        for _ in range(count):
            flying, before = bool(self.world.flights), self.world.num_exhausted
            for seq in self.world.step():
                if seq.error is not None and seq.finish_reason == "error":
                    self.short.add(seq.request.request_id)
                    self.seen["ended for want of memory"] += 1
            ran_out = self.world.num_exhausted > before
            self.seen["memory ran out"] += ran_out
            self.seen["memory ran out with steps in flight"] += ran_out and flying
        self.world.device.holds = lambda plan: True

    @rule(several=st.booleans(), released=st.booleans())
    def memory_runs_out_as_a_step_is_read(self, several: bool, released: bool) -> None:
        """Of a step that is in flight while its sequences, one or all of them, are held, and perhaps go on."""
        plan = self.world.plan()
        if plan is None:
            return
        self.world.flights.append((plan, self.world.run(plan)))
        self.world.steps += 1
        rows = self.world.scheduler._lifecycle.rows
        alive = rows.epochs[plan.rows] == plan.epochs
        members = [rows.at(row) for row in plan.rows[alive].tolist()]
        stopped = [seq for seq in members if several or seq is members[0]]
        for seq in stopped:
            self.hold_one(seq)
        if released:
            for seq in stopped:
                del self.held[seq.request.request_id]
                self.world.scheduler.release(seq.request.request_id)
        self.seen["memory ran out with steps in flight"] += len(self.world.flights) > 1
        ended = self.world.shed(self.world.flights[0][0])
        self.short |= {seq.request.request_id for seq in ended}
        self.seen["memory ran out in a step whose sequences were all held"] += several and not released
        for seq in ended:
            name = seq.request.request_id
            assert name not in self.held, "who is held is in no step"
            self.world.scheduler.hold(name)
            self.world.scheduler.release(name)
            self.world.scheduler.check()
            assert seq.status is Status.FINISHED

    @rule(pick=st.integers(0, 100))
    def preempt(self, pick: int) -> None:
        running = [seq for seq in self.world.scheduler.live() if seq.status is Status.RUNNING]
        if running:
            self.world.scheduler._lifecycle.preempt(running[pick % len(running)])
            self.world.scheduler.check()
            self.seen["preempted at any moment"] += 1

    @rule()
    def reset(self) -> None:
        self.world.scheduler.reset_prefix_cache()
        self.world.scheduler.check()
        self.seen["resets"] += 1

    def drop(self, seq: Sequence) -> None:
        self.note("aborted", seq)
        self.held.pop(seq.request.request_id, None)
        self.world.scheduler.abort(seq.request.request_id)
        self.world.scheduler.check()
        self.aborted.add(seq.request.request_id)

    def note(self, what: str, seq: Sequence) -> None:
        if seq.status is not Status.RUNNING:
            self.seen[f"{what} while {seq.status.value}"] += 1
        else:
            in_prompt = seq.row in self.world.scheduler._lifecycle.rows.partial
            self.seen[f"{what} in the middle of its prompt" if in_prompt else f"{what} while decoding"] += 1
            rows = [plan.rows.tolist() for plan, _ in self.world.flights]
            self.seen[f"{what} with its step in flight"] += any(seq.row in some for some in rows)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        while self.held:
            self.release(0)
        self.world.drain()
        for seq, prompt, max_tokens in self.asked:
            whole, name = continuation(prompt, max_tokens), seq.request.request_id
            assert seq.status is Status.FINISHED
            assert seq.tokens == whole[: len(seq.tokens)]
            if seq.finish_reason == "length":
                assert len(seq.tokens) == len(whole)
            else:
                errors = self.short if seq.error is not None else self.world.broken
                assert name in (self.aborted if seq.finish_reason == "abort" else errors), seq.finish_reason
            self.seen["requests that found a prefix"] += bool(seq.num_cached_tokens)
            if seq.finish_reason == "length" and seq.request.sampling.prompt_logprobs is not None:
                assert [entry.token_id for entry in seq.prompt_logprobs] == prompt[1:]
                self.seen["finished with a prompt's log-probabilities"] += 1
        self.seen["steps"] += self.world.steps
        self.seen["steps submitted while another was in flight"] += self.world.num_overlapped
        self.seen["blocks zeroed"] += len(self.world.device.zeroed)


def live_for(num_steps: int, num_lives: int) -> None:
    """Random lives, so many at a time, until that many steps have been checked."""
    Life.seen = Counter()
    start = time.perf_counter()
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    while Life.seen["steps"] < num_steps:
        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=num_lives,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=checks,
                database=None,
                phases=[Phase.generate],  # shrinking takes minutes; add it to understand a failure
                print_blob=True,
            ),
        )
    print(f"{time.perf_counter() - start:.0f} s: {dict(Life.seen)}")


def test_whoever_comes_and_goes_the_books_balance() -> None:
    live_for(3_000, num_lives=20)


@pytest.mark.slow
def test_the_books_balance_for_50_000_steps() -> None:
    live_for(NUM_STEPS, num_lives=100)
    assert not (missing := [what for what in MUST_OCCUR if not Life.seen[what]]), missing
