"""What sequences share, what they may not, and who goes first."""

from __future__ import annotations

import itertools

import pytest

from aphrodite.sched.scheduler import Budget
from aphrodite.types.request import Status
from tests.unit.sched.world import FULL, World, continuation, sliding

WIDE = Budget(num_tokens=100, num_seqs=8, num_logits=100)
PREFIX = [3, 1, 4, 1, 5, 9, 2, 6]


def test_requests_that_arrive_together_compute_their_prefix_once() -> None:
    world = World(num_blocks=60, budget=WIDE)
    seqs = [world.add([*PREFIX, 10 + i, 20 + i], 3) for i in range(5)]
    plan = world.plan()
    assert plan is not None and sorted(plan.num_new.tolist()) == [2, 2, 2, 2, 10], "in one step"
    world.scheduler.update(plan, world.run(plan))
    assert [seq.num_cached_tokens for seq in seqs] == [0, 8, 8, 8, 8]
    assert len({tuple(seq.blocks[0][:4]) for seq in seqs}) == 1
    world.drain()
    assert all(seq.tokens == continuation([*PREFIX, 10 + i, 20 + i], 3) for i, seq in enumerate(seqs))


def test_a_prefix_longer_than_a_step_is_computed_once() -> None:
    world = World(num_blocks=60, budget=Budget(5, 8, 8))
    seqs = [world.add([*PREFIX, *PREFIX, 10 + i], 2) for i in range(4)]
    total = 0
    while world.scheduler.has_work:
        plan = world.plan()
        assert plan is not None
        total += int(plan.num_new.sum())
        world.scheduler.update(plan, world.run(plan))
    assert [seq.num_cached_tokens for seq in seqs] == [0, 16, 16, 16]
    assert total == 17 + 3 * 1 + 4 * 1


def test_what_was_generated_is_found_by_the_next_turn() -> None:
    world = World(num_blocks=60)
    first = world.add(PREFIX, 9)
    world.drain()
    second = world.add([*first.tokens, 7], 2)
    world.drain()
    assert second.num_cached_tokens == 16, "17 tokens of which the last was never computed"
    assert second.tokens == continuation([*first.tokens, 7], 2)


def test_salts_isolate_and_prompt_log_probabilities_compute_everything() -> None:
    world = World(num_blocks=60, budget=WIDE)
    seqs = [world.add([*PREFIX, 1], 1, salt=salt) for salt in (None, "a", "b", "a", None)]
    world.drain()
    assert [seq.num_cached_tokens for seq in seqs] == [0, 0, 0, 8, 8]
    scored = world.add([*PREFIX, 1], 1, prompt_logprobs=0)
    world.drain()
    assert scored.num_cached_tokens == 0 and len(scored.prompt_logprobs) == 8


def test_rows_that_share_a_prefix_stand_together() -> None:
    world = World(num_blocks=100, budget=WIDE)
    families = [[family] * 6 for family in (1, 2, 3)]
    seqs = [world.add([*families[i % 3], 10 + i], 4) for i in range(8)]
    world.step()
    plan = world.plan()
    assert plan is not None
    by_row = {seq.row: seq.tokens[0] for seq in seqs}
    kinds = [by_row[row] for row in plan.rows.tolist()]
    assert len(kinds) == 8 and sum(a != b for a, b in itertools.pairwise(kinds)) == 2
    world.scheduler.update(plan, world.run(plan))
    world.drain()


def test_reset_makes_the_next_request_compute_everything() -> None:
    world = World(num_blocks=60)
    world.add(PREFIX, 2)
    world.drain()
    world.scheduler.reset_prefix_cache()
    again = world.add(PREFIX, 2)
    world.drain()
    assert again.num_cached_tokens == 0 and again.tokens == continuation(PREFIX, 2)


def test_a_preempted_sequence_takes_up_its_blocks_again_if_they_are_still_there() -> None:
    world = World(num_blocks=9, budget=Budget(8, 2, 8))
    old, young = world.add([1, 2, 3, 4], 10), world.add([5, 6, 7], 4)
    world.drain()
    assert old.num_preemptions == 0 and young.num_preemptions == 0
    crowded = World(num_blocks=7, budget=Budget(8, 2, 8))
    old, young = crowded.add([1, 2, 3, 4], 10), crowded.add([5, 6, 7], 8)
    crowded.drain()
    assert young.num_preemptions >= 1
    assert old.tokens == continuation([1, 2, 3, 4], 10) and young.tokens == continuation([5, 6, 7], 8)


# ---- failures -------------------------------------------------------------------------------------------------------


def test_a_failed_step_is_computed_again_and_leaves_nothing_in_the_cache() -> None:
    world = World(num_blocks=60, budget=WIDE)
    seqs = [world.add([*PREFIX, 10 + i], 3) for i in range(3)]
    world.device.fails = True
    world.step()
    assert world.kv.num_cached == 0 and all(seq.status is Status.WAITING for seq in seqs)
    world.drain()
    assert all(seq.tokens == continuation([*PREFIX, 10 + i], 3) for i, seq in enumerate(seqs))


def test_blocks_of_earlier_steps_survive_a_failed_one() -> None:
    world = World(num_blocks=60, budget=WIDE)
    seq = world.add(PREFIX, 6)
    world.step()
    world.step()
    world.device.fails = True
    world.step()
    plan = world.plan()
    assert plan is not None and plan.new_rows[0].num_computed == 8, "the prompt is still there"
    world.scheduler.update(plan, world.run(plan))
    world.drain()
    assert seq.tokens == continuation(PREFIX, 6)


def test_a_broken_request_fails_alone_though_others_adopted_its_blocks() -> None:
    world = World(num_blocks=60, budget=WIDE)
    broken, *others = [world.add([*PREFIX, 10 + i], 3) for i in range(4)]
    world.broken[broken.request.request_id] = 2
    world.step()
    assert broken.finish_reason == "error" and world.kv.num_cached == 0
    world.drain()
    for i, seq in enumerate(others, 1):
        assert seq.finish_reason == "length" and seq.tokens == continuation([*PREFIX, 10 + i], 3)


def test_blocks_left_by_an_aborted_broken_request_fail_nobody() -> None:
    world = World(num_blocks=60, budget=Budget(6, 4, 6))
    broken = world.add([*PREFIX, 1, 2], 3)
    world.broken[broken.request.request_id] = 0
    world.step()
    world.scheduler.abort(broken.request.request_id)
    innocent = world.add([*PREFIX, 3], 3)
    world.drain()
    assert innocent.num_cached_tokens == 6 and innocent.finish_reason == "length"
    assert innocent.tokens == continuation([*PREFIX, 3], 3)
    later = world.add([*PREFIX, 3], 3)
    world.drain()
    assert later.num_cached_tokens == 8 and later.num_preemptions == 0


def test_a_broken_request_on_a_warm_cache_fails_once_it_has_computed_everything_itself() -> None:
    world = World(num_blocks=60, budget=WIDE)
    world.add(PREFIX, 2)
    world.drain()
    broken = world.add([*PREFIX, 8], 3)
    world.broken[broken.request.request_id] = 8
    world.drain()
    assert broken.finish_reason == "error" and broken.num_preemptions == 1


# ---- policies -------------------------------------------------------------------------------------------------------


def order_of_end(world: World) -> list[str]:
    ended: list[str] = []
    while world.scheduler.has_work:
        ended += [seq.request.request_id for seq in world.step() if seq.status is Status.FINISHED]
    return ended


@pytest.mark.parametrize(("policy", "expected"), [("fcfs", ["0", "1", "2", "3"]), ("priority", ["2", "0", "3", "1"])])
def test_who_goes_first(policy: str, expected: list[str]) -> None:
    world = World(num_blocks=40, budget=Budget(8, 1, 8), policy=policy)
    for number, priority in enumerate((5, 7, -1, 5)):
        world.add([number], 2, priority=priority)
    assert order_of_end(world) == expected


def test_an_urgent_request_takes_the_place_of_the_least_urgent() -> None:
    world = World(num_blocks=14, budget=Budget(16, 3, 16), policy="priority")
    slow = [world.add([i, 2, 3, 4], 3, priority=5 + i) for i in range(3)]
    world.step()
    urgent = world.add([9] * 10, 3, priority=0)
    world.step()
    assert urgent.status is Status.RUNNING and [seq.num_preemptions for seq in slow] == [0, 0, 1]
    equal = world.add([8] * 10, 3, priority=6)
    world.step()
    assert equal.status is Status.WAITING and slow[1].num_preemptions == 0, "an equal takes nobody's place"
    world.drain()
    assert urgent.tokens == continuation([9] * 10, 3)
    assert all(seq.tokens == continuation([i, 2, 3, 4], 3) for i, seq in enumerate(slow))


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_an_urgent_request_does_not_wait_for_a_budget_that_others_decode_away(budget: int) -> None:
    world = World(num_blocks=60, budget=Budget(budget, 8, 8), policy="priority")
    slow = [world.add([i], 30, priority=5) for i in range(3)]
    for _ in range(12):
        world.step()
    assert sum(seq.num_output for seq in slow) > 6
    urgent = world.add([9] * 6, 2, priority=0)
    before = world.steps
    while urgent.finish_reason is None:
        world.step()
    assert world.steps - before <= -(-6 // budget) + 1, "its prompt, then its second token"
    world.drain()
    assert urgent.tokens == continuation([9] * 6, 2)
    assert all(seq.tokens == continuation([i], 30) and seq.num_preemptions == 0 for i, seq in enumerate(slow))


def test_who_comes_back_goes_before_later_ones_that_decode_the_budget_away() -> None:
    world = World(num_blocks=60, budget=Budget(2, 4, 4))
    first, *later = [world.add([i], 30) for i in range(3)]
    for _ in range(10):
        world.step()
    known = first.num_output
    world.scheduler._lifecycle.preempt(first)
    for _ in range(2 + known):
        world.step()
    assert first.num_output > known, "two tokens a step, all of them its own until it decodes again"
    world.drain()
    assert [seq.tokens for seq in (first, *later)] == [continuation([i], 30) for i in range(3)]


# ---- rows -----------------------------------------------------------------------------------------------------------


def num_prefixes(world: World, shared: int) -> int:
    """Different first `shared` blocks of running sequences; those of the same must be neighbours in the order."""
    members = world.scheduler._lifecycle.rows.members.seqs
    heads = [tuple(seq.blocks[0][:shared]) for seq in members]
    assert len([head for head, _ in itertools.groupby(heads)]) == len(set(heads))
    return len(set(heads))


@pytest.mark.parametrize("steps_in_flight", [0, 1])
def test_rows_that_share_a_prefix_stand_together_whoever_comes_and_goes(steps_in_flight: int) -> None:
    budget = Budget(num_tokens=100, num_seqs=12, num_logits=100)
    world = World(num_blocks=200, budget=budget, steps_in_flight=steps_in_flight)
    trunks = [[trunk, *PREFIX] for trunk in range(3)]
    seqs, seen = [], []
    for number in range(40):
        trunk = trunks[number * 7 // 3 % 3]
        seqs.append(world.add([*trunk, 10 + number % 5, number], 3 + number % 7))
        world.step()
        seen.append((num_prefixes(world, 4), len(world.scheduler._lifecycle.running)))
        plan = world.flights[-1][0] if world.flights else None
        if plan is not None:
            place = {row: index for index, row in enumerate(world.scheduler._lifecycle.rows._by_prefix)}
            order = [place[row] for row in plan.rows.tolist() if row in place]
            assert order == sorted(order), "a step has the rows in that order"
        if number % 6 == 5:
            world.scheduler.abort(seqs[number - 2].request.request_id)
    assert max(seen) >= (3, 5), "three prefixes, each of several sequences"
    world.drain()


# ---- cache groups ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8])
def test_sliding_groups_are_shared_and_freed_beside_full_ones(window: int) -> None:
    world = World(num_blocks=24, budget=Budget(7, 4, 8), groups=(FULL, sliding(window)))
    seqs = [world.add([*PREFIX, *PREFIX, 10 + i], 12) for i in range(3)]
    world.drain()
    again = world.add([*PREFIX, *PREFIX, 10], 12)
    world.drain()
    assert again.num_cached_tokens == 16
    for seq, last in zip([*seqs, again], (10, 11, 12, 10), strict=True):
        assert seq.tokens == continuation([*PREFIX, *PREFIX, last], 12)
