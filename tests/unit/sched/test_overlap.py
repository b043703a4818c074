"""The rules that make overlap sound, one by one: the scheduler plans while steps are in flight.

The device in plain Python runs a plan when it is submitted; what it drew is shown to the scheduler when it is settled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aphrodite.sched.scheduler import Budget
from aphrodite.types.request import Sequence, Status
from aphrodite.types.sampling_params import SamplingParams
from aphrodite.types.step import SchedulerOutput, StepOutput
from tests.unit.sched.world import FULL, World, continuation, sliding

WIDE = Budget(num_tokens=64, num_seqs=8, num_logits=64)


def submit(world: World) -> tuple[SchedulerOutput, StepOutput]:
    """Schedule a step and run it, but do not settle it."""
    plan = world.plan()
    assert plan is not None
    world.flights.append((plan, world.run(plan)))
    return world.flights[-1]


def ending_by(seq: Sequence, token: int) -> Sequence:
    """The same sequence, which this token ends."""
    seq.request = replace(
        seq.request, stop_ids=frozenset({token}), sampling=SamplingParams(max_tokens=seq.request.sampling.max_tokens)
    )
    return seq


# ---- the pending token ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2, 3])
@pytest.mark.parametrize("groups", [(FULL,), (FULL, sliding(3))])
def test_tokens_do_not_depend_on_how_many_steps_are_in_flight(steps_in_flight: int, groups: Any) -> None:
    world = World(num_blocks=60, budget=Budget(7, 4, 5), groups=groups, steps_in_flight=steps_in_flight)
    prompts = [[1, 2, 3], list(range(20)), [7], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 9]]
    seqs = [world.add(prompt, 9, logprobs=None if i % 2 else 1) for i, prompt in enumerate(prompts)]
    world.drain()
    assert [seq.tokens for seq in seqs] == [continuation(prompt, 9) for prompt in prompts]
    assert bool(world.num_overlapped) == bool(steps_in_flight)


def test_the_next_step_is_planned_before_the_token_it_computes_is_known() -> None:
    world = World(num_blocks=20, budget=WIDE)
    seq = world.add([1, 2, 3], 5)
    submit(world)
    plan, _ = submit(world)
    assert seq.tokens == [1, 2, 3] and plan.num_new.tolist() == [1] and plan.draws.tolist() == [1]
    assert plan.max_k == 4, "three tokens of the prompt, one that the host has not seen"
    world.settle()
    assert seq.tokens == continuation([1, 2, 3], 2)


# ---- rule 1: rows have epochs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "abort", "preempt", "failure"])
def test_rule_1_results_of_an_older_epoch_are_dropped(how: str) -> None:
    world = World(num_blocks=40, budget=Budget(64, 1, 8))
    prompt = [3, 1, 4]
    expected = continuation(prompt, 8)
    seq, heir = world.add(prompt, 8), world.add([9, 9], 2)
    if how == "stop":
        ending_by(seq, expected[3])
    first, _ = submit(world)
    late, _ = submit(world)  # computes the first drawn token, which in one case ends the sequence
    if how == "stop":
        world.settle(1)
        assert seq.tokens == expected[:4] and seq.finish_reason == "stop"
    elif how == "abort":
        world.scheduler.abort(seq.request.request_id)
    elif how == "preempt":
        world.scheduler._lifecycle.preempt(seq)
    else:
        world.scheduler.fail()
        world.flights.clear()
    plan, _ = submit(world)
    assert plan.rows.tolist() == late.rows.tolist() == first.rows.tolist() and plan.epochs[0] == first.epochs[0] + 1
    while world.flights and world.flights[0][0] is not plan:
        assert world.scheduler.update(*world.flights.popleft()) == [], "nobody's result"
    assert heir.tokens == [9, 9]
    world.drain()
    assert heir.tokens == continuation([9, 9], 2)
    assert seq.tokens == {"stop": expected[:4], "abort": prompt}.get(how, expected)


# ---- rule 2: lengths are known when scheduling ----------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
@pytest.mark.parametrize("steps_in_flight", [1, 2, 3])
def test_rule_2_a_length_is_never_overrun(max_tokens: int, steps_in_flight: int) -> None:
    world = World(num_blocks=20, budget=WIDE, steps_in_flight=steps_in_flight)
    seq = world.add([1, 2, 3], max_tokens)
    world.drain()
    assert world.steps == max_tokens, "one step draws the first token, each other one the next: none is for nothing"
    assert seq.tokens == continuation([1, 2, 3], max_tokens) and seq.finish_reason == "length"


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
def test_rule_2_an_end_token_is_overrun_by_the_steps_in_flight_in_slots_of_its_own(steps_in_flight: int) -> None:
    world = World(num_blocks=20, budget=WIDE, steps_in_flight=steps_in_flight)
    expected = continuation([3, 1, 4], 10)
    seq = ending_by(world.add([3, 1, 4], 10), expected[5])
    end = expected.index(expected[5], 3) + 1
    world.drain()  # the device asserts that what it writes has a block of the sequence's own
    assert seq.tokens == expected[:end] and seq.finish_reason == "stop"
    assert world.steps == end - 3 + steps_in_flight


# ---- rule 3: preempt from a settled state ---------------------------------------------------------------------------


def test_rule_3_nobody_is_preempted_while_a_step_is_in_flight() -> None:
    world = World(num_blocks=5, block_size=2, budget=Budget(8, 2, 8), steps_in_flight=1)
    old, young = world.add([1, 2, 3, 4], 6), world.add([5, 6, 7], 4)
    settled_first = 0
    while world.scheduler.has_work or world.flights:
        before = young.num_preemptions, len(world.flights)
        world.step()
        settled_first += world.scheduler.must_settle
        assert young.num_preemptions == before[0] or before[1] == 0, "it was preempted with a step in flight"
        assert not world.scheduler.must_settle or not world.flights
    assert settled_first and young.num_preemptions and not old.num_preemptions
    assert old.tokens == continuation([1, 2, 3, 4], 6) and young.tokens == continuation([5, 6, 7], 4)


def test_rule_3_settling_may_free_what_was_missing_so_that_nobody_goes() -> None:
    world = World(num_blocks=4, block_size=2, budget=Budget(8, 2, 8), steps_in_flight=1)
    first, second = world.add([1, 2, 3], 2), world.add([5, 6, 7], 4)
    world.drain()
    assert first.num_preemptions == second.num_preemptions == 0
    assert second.tokens == continuation([5, 6, 7], 4)


def test_rule_3_holds_for_those_who_make_way_for_a_higher_priority() -> None:
    world = World(num_blocks=30, budget=Budget(8, 1, 8), policy="priority", steps_in_flight=1)
    low = world.add([1, 2, 3], 6, priority=1)
    world.step()
    world.step()
    assert world.flights
    high = world.add([4, 5], 2, priority=0)
    world.plan()
    assert world.scheduler.must_settle and low.status is Status.RUNNING
    world = World(num_blocks=30, budget=Budget(8, 1, 8), policy="priority", steps_in_flight=1)
    low = world.add([1, 2, 3], 6, priority=1)
    world.step()
    world.step()
    high = world.add([4, 5], 2, priority=0)
    world.drain()
    assert low.num_preemptions == 1 and high.tokens == continuation([4, 5], 2)
    assert low.tokens == continuation([1, 2, 3], 6)


# ---- rule 4: freed blocks are reusable at once ----------------------------------------------------------------------


def test_rule_4_a_freed_block_is_used_by_the_next_step_while_an_older_one_that_has_it_is_in_flight() -> None:
    world = World(num_blocks=3, block_size=2, budget=Budget(8, 2, 8))
    gone = world.add([1, 2, 3], 3)
    submit(world)
    held = set(gone.blocks[0])
    submit(world)
    world.scheduler.abort(gone.request.request_id)
    heir = world.add([7, 8, 9, 7, 8], 1)
    submit(world)
    assert held & set(heir.blocks[0]), "there are no others"
    world.drain()  # the device compares all that attention reads with what should stand there
    assert heir.tokens == continuation([7, 8, 9, 7, 8], 1)


# ---- rule 5: blocks are published as soon as others may read them ---------------------------------------------------


def test_rule_5_known_tokens_are_published_by_schedule_and_drawn_ones_by_update() -> None:
    world = World(num_blocks=40, block_size=2, budget=WIDE)
    one = world.add([1, 2, 3, 4, 5], 6)
    submit(world)
    other = world.add([1, 2, 3, 4, 6], 1)
    submit(world)
    assert other.num_cached_tokens == 4, "adopted while the step that computes them was in flight"
    for _ in range(3):
        submit(world)
    assert one.num_published == 2, "tokens that the host has not seen have no name"
    world.settle()
    assert one.num_published == 4, "5 known and 5 drawn tokens, the last of them not computed: 4 full blocks"
    world.drain()
    assert other.tokens == continuation([1, 2, 3, 4, 6], 1)


def test_rule_5_a_failed_step_unpublishes_and_its_adopters_compute_again() -> None:
    world = World(num_blocks=40, block_size=2, budget=WIDE)
    warm = world.add([8, 8, 8, 8, 8], 1)
    world.drain()
    first = world.add([1, 2, 3, 4, 5], 3)
    world.device.fails = True
    plan = world.plan()
    assert plan is not None
    adopter, lucky = world.add([1, 2, 3, 4, 6], 3), world.add([8, 8, 8, 8, 9], 1)
    assert world.plan() is not None  # planned behind the step that is going to fail
    assert adopter.num_cached_tokens == 4 and lucky.num_cached_tokens == 4
    world.device.fails = False
    world.scheduler.fail()
    world.scheduler.check()
    world.device.rows.clear()  # nothing of what the device had is relied on
    plan = world.plan()
    assert plan is not None
    again = {new.tokens: new.num_computed for new in plan.new_rows}
    assert again == {(1, 2, 3, 4, 5): 0, (1, 2, 3, 4, 6): 4, (8, 8, 8, 8, 9): 4}, (
        "the first computes, the second adopts"
    )
    world.flights.append((plan, world.run(plan)))
    world.drain()
    assert warm.finish_reason == "length" and first.tokens == continuation([1, 2, 3, 4, 5], 3)
    assert adopter.tokens == continuation([1, 2, 3, 4, 6], 3) and lucky.tokens == continuation([8, 8, 8, 8, 9], 1)


# ---- rule 7: no numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
def test_rule_7_a_row_without_numbers_fails_alone_and_what_it_held_is_zeroed_first(steps_in_flight: int) -> None:
    world = World(num_blocks=12, block_size=2, budget=WIDE, steps_in_flight=steps_in_flight)
    bad, good = world.add([1, 2, 3, 4, 5], 9), world.add([1, 2, 3, 4, 6], 6)
    world.broken[bad.request.request_id] = 3
    world.step()
    held = set(bad.blocks[0])
    world.drain()
    assert bad.finish_reason == "error" and bad.tokens == [1, 2, 3, 4, 5]
    assert good.finish_reason == "length" and good.tokens == continuation([1, 2, 3, 4, 6], 6)
    assert {block for _, block in world.device.zeroed} >= held - set(good.blocks[0]) and world.device.zeroed
    later = world.add([1, 2, 3, 4, 5], 2)
    world.drain()
    assert later.num_cached_tokens <= 4 and later.tokens == continuation([1, 2, 3, 4, 5], 2)


def test_rule_7_a_step_that_failed_before_it_zeroed_leaves_that_to_the_next() -> None:
    world = World(num_blocks=12, block_size=2, budget=WIDE)
    bad, good = world.add([1, 2, 3, 4, 5], 9), world.add([7, 8], 6)
    world.broken[bad.request.request_id] = 3
    world.step()
    assert bad.finish_reason == "error"
    plan = world.plan()
    assert plan is not None and plan.zero_blocks
    for _ in range(2):
        world.scheduler.fail()
        again = world.plan()
        assert again is not None and again.zero_blocks == plan.zero_blocks
    world.scheduler.fail()
    world.drain()
    assert {(zero.group, block) for zero in plan.zero_blocks for block in zero.blocks} <= set(world.device.zeroed)
    assert good.tokens == continuation([7, 8], 6)


def test_rule_7_a_failed_step_takes_those_behind_it_along_and_rows_are_written_anew() -> None:
    world = World(num_blocks=60, block_size=2, budget=WIDE)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    seqs = [world.add(prompt, 12) for prompt in prompts]
    for round_ in range(4):
        submit(world)
        submit(world)
        world.settle(1)
        submit(world)
        world.flights.clear()
        world.scheduler.fail()
        world.scheduler.check()
        world.device.rows.clear()
        assert all(seq.tokens[: len(p)] == p for seq, p in zip(seqs, prompts, strict=True)), round_
    world.drain()
    assert [seq.tokens for seq in seqs] == [continuation(prompt, 12) for prompt in prompts]
