"""Memory that runs out in a step: once a smaller step, then the longest goes, and nothing is tried for ever."""

from __future__ import annotations

import math
import random

import pytest

from aphrodite.sched.scheduler import Budget
from aphrodite.types.request import Sequence
from aphrodite.types.step import SchedulerOutput
from tests.unit.sched.world import World, continuation

BUDGET = Budget(num_tokens=32, num_seqs=6, num_logits=16)
LENGTHS = (5, 40, 9, 2, 17)


def world(steps_in_flight: int = 0, num_blocks: int = 100) -> World:
    return World(num_blocks=num_blocks, budget=BUDGET, steps_in_flight=steps_in_flight)


def ask(world: World, count: int = 12) -> list[Sequence]:
    return [world.add([place, *range(1, length)], count) for place, length in enumerate(LENGTHS)]


def check_whole(seqs: list[Sequence], count: int = 12) -> None:
    """They have got what they get alone."""
    for seq in seqs:
        prompt = list(seq.request.prompt_token_ids)
        assert seq.finish_reason == "length" and seq.tokens == continuation(prompt, count)


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_a_step_that_memory_ran_out_in_is_tried_once_more_at_half_its_size(steps_in_flight: int, number: int) -> None:
    found = world(steps_in_flight)
    seqs = ask(found)
    sizes: list[int] = []

    def holds(plan: SchedulerOutput) -> bool:
        sizes.append(int(plan.num_new.sum()))
        return len(sizes) != number

    found.device.holds = holds
    found.drain()
    check_whole(seqs)
    assert found.num_exhausted == 1
    assert sizes[number] <= max(1, sizes[number - 1] // 2)


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_a_second_time_in_a_row_ends_the_longest_of_the_step_and_nobody_else(steps_in_flight: int, number: int) -> None:
    found = world(steps_in_flight)
    seqs = ask(found)
    steps: list[list[tuple[int, str]]] = []

    def holds(plan: SchedulerOutput) -> bool:
        rows = {seq.row: seq for seq in found.scheduler.live()}
        computed = found.scheduler._lifecycle.rows.computed
        steps.append([(int(computed[row]), rows[row].request.request_id) for row in plan.rows.tolist()])
        return len(steps) not in (number, number + 1)

    found.device.holds = holds
    found.drain()
    ended = [seq for seq in seqs if seq.finish_reason == "error"]
    assert [seq.request.request_id for seq in ended] == [max(steps[number])[1]]
    assert str(ended[0].error) == "no memory" and found.num_exhausted == 2
    check_whole([seq for seq in seqs if seq not in ended])


@pytest.mark.parametrize("steps_in_flight", [0, 1])
def test_memory_that_never_comes_back_ends_all_in_two_steps_each(steps_in_flight: int) -> None:
    found = world(steps_in_flight)
    seqs = ask(found)
    found.device.holds = lambda plan: False
    found.drain()
    assert all(seq.finish_reason == "error" and not seq.num_output for seq in seqs)
    assert found.num_exhausted <= 2 * len(seqs)
    found.device.holds = lambda plan: True
    later = found.add([1, 2, 3], 12)
    found.drain()
    check_whole([later])


@pytest.mark.parametrize("steps_in_flight", [0, 1])
@pytest.mark.parametrize("most", [1, 2, 5, 16, 20])
def test_steps_of_a_size_that_fits_are_found_and_the_others_go_on(steps_in_flight: int, most: int) -> None:
    found = world(steps_in_flight)
    seqs = ask(found)
    found.device.holds = lambda plan: plan.num_new.sum() <= most
    found.drain()
    whole = [seq for seq in seqs if seq.finish_reason != "error"]
    check_whole(whole)
    assert len(whole) == len(seqs) if most >= BUDGET.num_tokens // 2 else len(whole) >= 3
    # a few to get there, and then one each time that twice as much was tried, ever more seldom
    assert found.num_exhausted <= math.log2(BUDGET.num_tokens) + math.log2(found.steps) + 1


@pytest.mark.parametrize("steps_in_flight", [0, 1])
def test_who_alone_is_too_long_ends_and_the_others_do_not(steps_in_flight: int) -> None:
    found = world(steps_in_flight)
    seqs = ask(found)
    found.device.holds = lambda plan: plan.max_k <= 33
    found.drain()
    assert [seq.finish_reason for seq in seqs] == ["length", "error", "length", "length", "length"]
    check_whole([seqs[0], *seqs[2:]])
    assert found.num_exhausted <= 4


def test_a_prompt_gets_through_without_a_prefix_cache_though_memory_runs_out_again_and_again() -> None:
    found = world(num_blocks=400)
    found.kv.prefix_caching = False
    prompt = list(range(700))
    seq = found.add(prompt, 12)
    found.device.holds = lambda plan: plan.num_new.sum() <= 16
    found.drain()
    assert seq.tokens == continuation(prompt, 12) and found.num_exhausted == 3


def test_the_whole_budget_comes_back() -> None:
    found = world()
    budget = found.scheduler.budget
    fails = iter([False, False])
    found.device.holds = lambda plan: next(fails, True)
    seqs = [found.add([1, 2, 3], 150) for _ in range(3)]
    found.step()
    found.step()
    assert found.scheduler.budget.num_tokens < budget.num_tokens
    found.drain()
    assert found.scheduler.budget is budget
    assert sorted(seq.finish_reason or "" for seq in seqs) == ["error", "length", "length"]


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
def test_whatever_fits_when_nobody_waits_for_ever_and_nothing_is_wrong(steps_in_flight: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(30):
        found = world(steps_in_flight, num_blocks=rng.choice([40, 60, 100]))
        seqs = ask(found)
        area, odds = rng.choice([20, 60, 200, 10**6]), rng.random() / 4

        def holds(plan: SchedulerOutput, area: int = area, odds: float = odds) -> bool:
            return plan.max_k * len(plan.rows) <= area and rng.random() > odds

        found.device.holds = holds
        found.drain()
        check_whole([seq for seq in seqs if seq.finish_reason != "error"])
        assert all(seq.finish_reason for seq in seqs)
