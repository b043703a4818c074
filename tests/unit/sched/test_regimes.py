"""Regimes: beyond some lengths all keys and values of a sequence are others. The device in plain Python has the regime
of a row's own tokens, and compares it with that in which every key was computed."""

from __future__ import annotations

from itertools import product

import pytest

from aphrodite.kv.manager import KVCacheManager
from aphrodite.kv.spec import KVPlan
from aphrodite.sched.scheduler import Budget, Scheduler
from aphrodite.types.request import Status
from tests.unit.sched.world import FULL, World, continuation, sliding

WIDE = Budget(num_tokens=64, num_seqs=8, num_logits=64)
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2, 3])
@pytest.mark.parametrize("length", [6, 7, 8, 9, 10])
@pytest.mark.parametrize("groups", [(FULL,), (FULL, sliding(3)), (sliding(4),)], ids=["full", "mixed", "sliding"])
def test_a_sequence_that_grows_beyond_computes_all_its_keys_anew_once(
    groups: tuple[object, ...], length: int, steps_in_flight: int
) -> None:
    world = World(
        num_blocks=30,
        budget=WIDE,
        groups=groups,  # type: ignore[arg-type]
        steps_in_flight=steps_in_flight,
        regimes=(8,),
    )
    prompt = [*PROMPT, 7, 7][:length]
    seq = world.add(prompt, 6)
    total = 0
    while world.scheduler.has_work or world.flights:
        plan = world.plan()
        if plan is not None:
            total += int(plan.num_new.sum())
            world.steps += 1
            world.flights.append((plan, world.run(plan)))
        world.settle(len(world.flights) - 1 if plan is None else steps_in_flight)
    assert seq.tokens == continuation(prompt, 6) and seq.num_preemptions == 0
    crosses = length <= 8
    assert total == length + 5 + 8 * crosses, "the eight keys of the first regime, computed a second time"
    assert seq.regime == 1


def test_who_ends_at_the_boundary_does_not_start_over() -> None:
    for max_tokens, again in ((1, 0), (2, 0), (3, 8)):
        world = World(num_blocks=30, budget=WIDE, regimes=(8,))
        seq = world.add(PROMPT[:7], max_tokens)
        total = 0
        while world.scheduler.has_work:
            plan = world.plan()
            assert plan is not None
            total += int(plan.num_new.sum())
            world.scheduler.update(plan, world.run(plan))
        assert seq.finish_reason == "length" and seq.tokens == continuation(PROMPT[:7], max_tokens)
        assert total == 7 + max_tokens - 1 + again


def test_it_draws_no_further_than_the_boundary_before_that_token_is_settled() -> None:
    world = World(num_blocks=30, budget=WIDE, regimes=(8,))
    seq, other = world.add(PROMPT, 5), world.add([7], 5)
    for _ in range(2):
        plan = world.plan()
        assert plan is not None
        world.flights.append((plan, world.run(plan)))
    assert plan.rows.tolist() == [other.row], "the ninth token is drawn and not known"
    world.settle()
    assert seq.status is Status.WAITING and seq.tokens == continuation(PROMPT, 1) and not any(seq.blocks)
    plan = world.plan()
    assert plan is not None and plan.num_new.tolist() == [1, 9] and plan.new_rows[0].tokens == tuple(seq.tokens)
    world.flights.append((plan, world.run(plan)))
    world.drain()
    assert (seq.tokens, other.tokens) == (continuation(PROMPT, 5), continuation([7], 5))


def test_regimes_share_no_blocks_and_each_its_own() -> None:
    world = World(num_blocks=60, budget=WIDE, regimes=(8,))
    long = world.add([*PROMPT, 7], 1)
    world.drain()
    short = world.add(PROMPT, 3)  # crosses: computed short, then found long
    world.step()
    assert short.num_cached_tokens == 0 and long.num_cached_tokens == 0
    world.step()
    assert short.regime == 1 and short.num_adopted == 4, "four blocks of the long one, the ninth token is its own"
    world.drain()
    again, longer = world.add(PROMPT, 1), world.add([*PROMPT, 7, 8], 1)
    world.drain()
    assert (again.num_cached_tokens, longer.num_cached_tokens) == (6, 8)
    assert short.tokens == continuation(PROMPT, 3)


def test_the_keys_of_a_regime_outlive_those_who_left_it() -> None:
    world = World(num_blocks=60, budget=WIDE, regimes=(8,))
    first, second = world.add([*PROMPT[:6], 1], 6), world.add([*PROMPT[:6], 2], 6)
    world.drain()
    assert second.num_cached_tokens == 6
    for seq, last in ((first, 1), (second, 2)):
        assert seq.tokens == continuation([*PROMPT[:6], last], 6)
    third = world.add([*PROMPT[:6], 3], 1)
    world.drain()
    assert third.num_cached_tokens == 6


@pytest.mark.parametrize("steps_in_flight", [0, 1])
def test_boundaries_may_be_many_and_close_together(steps_in_flight: int) -> None:
    world = World(num_blocks=60, budget=Budget(5, 4, 5), steps_in_flight=steps_in_flight, regimes=(1, 2, 3, 9, 10, 20))
    prompts = [[5], [5, 6], [5, 6, 7], PROMPT, [*PROMPT, 1, 2, 3]]
    seqs = [world.add(prompt, 12, prompt_logprobs=0, logprobs=0) for prompt in prompts]
    world.drain()
    for seq, prompt in zip(seqs, prompts, strict=True):
        assert seq.tokens == continuation(prompt, 12)
        assert [entry.token_id for entry in seq.prompt_logprobs] == prompt[1:]
        assert [entry.token_id for entry in seq.logprobs] == seq.tokens[len(prompt) :]


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
def test_a_failure_or_a_preemption_around_the_boundary_changes_nothing(steps_in_flight: int) -> None:
    for tick, how in product(range(9), ("fail", "preempt")):
        world = World(num_blocks=40, budget=WIDE, steps_in_flight=steps_in_flight, regimes=(6, 8))
        seqs = [world.add(PROMPT[:length], 7) for length in (4, 5, 6)]
        for _ in range(tick):
            world.step()
        if how == "fail":
            world.flights.clear()
            world.scheduler.fail()
            world.device.rows.clear()
        else:
            for seq in seqs:
                if seq.status is Status.RUNNING:
                    world.scheduler._lifecycle.preempt(seq)
        world.scheduler.check()
        world.drain()
        assert [seq.tokens for seq in seqs] == [continuation(PROMPT[:length], 7) for length in (4, 5, 6)]


def test_who_starts_over_keeps_its_place_before_later_arrivals() -> None:
    world = World(num_blocks=30, budget=Budget(64, 1, 8), regimes=(8,))
    seq, later = world.add(PROMPT, 3), world.add([1], 1)
    world.step()
    assert seq.status is Status.WAITING
    world.step()
    assert seq.status is Status.RUNNING and later.status is Status.WAITING
    world.drain()


def test_a_cache_of_one_sequence_is_enough_to_cross() -> None:
    world = World(num_blocks=6, budget=Budget(4, 3, 4), regimes=(4, 8))
    seqs = [world.add(PROMPT[:n], 13 - n) for n in (3, 4, 5)]
    world.drain()
    assert [seq.tokens for seq in seqs] == [continuation(PROMPT[:n], 13 - n) for n in (3, 4, 5)]
    assert sum(seq.num_preemptions for seq in seqs) > 0


def test_boundaries_ascend() -> None:
    kv = KVCacheManager(KVPlan((FULL,), 2, 8))
    for wrong in ((0,), (-1, 4), (4, 4), (5, 3)):
        with pytest.raises(AssertionError):
            Scheduler(kv, WIDE, regimes=wrong)
