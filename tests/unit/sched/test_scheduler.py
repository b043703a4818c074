"""The scheduler against a device in plain Python, which believes only what the plans tell it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aphrodite.errors import CapacityError
from aphrodite.sched.scheduler import Budget
from aphrodite.types.request import Sequence, Status
from aphrodite.types.sampling_params import SamplingParams
from tests.unit.sched.world import VOCAB, World, continuation

# ---- single cases ---------------------------------------------------------------------------------------------------


def test_a_prompt_is_cut_into_chunks_of_the_budget_and_draws_once_it_is_whole() -> None:
    world = World(num_blocks=20, budget=Budget(4, 2, 4))
    seq = world.add(list(range(10)), 3)
    seen = []
    while world.scheduler.has_work:
        plan = world.plan()
        assert plan is not None
        seen.append((plan.num_new.tolist(), plan.num_logits.tolist(), plan.draws.tolist()))
        world.scheduler.update(plan, world.run(plan))
    assert seen == [([4], [0], [0]), ([4], [0], [0]), ([2], [1], [1]), ([1], [1], [1]), ([1], [1], [1])]
    assert seq.tokens == continuation(list(range(10)), 3) and seq.finish_reason == "length"


def test_running_sequences_go_before_waiting_ones_and_share_what_is_left() -> None:
    world = World(num_blocks=50, budget=Budget(8, 3, 8))
    first = world.add([1, 2, 3], 5)
    world.step()
    second, third = world.add([4] * 20, 1), world.add([5], 1)
    plan = world.plan()
    assert plan is not None and plan.rows.tolist() == [first.row, second.row] and plan.num_new.tolist() == [1, 7]
    assert third.status is Status.WAITING, "no budget was left"


def test_what_could_not_run_even_alone_is_refused_at_once() -> None:
    world = World(num_blocks=3, block_size=4)
    assert world.add([0] * 6, 7), "13 tokens, the last of which is never computed, fit into 12 places"
    with pytest.raises(CapacityError, match="may grow to 14 tokens") as caught:
        world.add([0] * 6, 8)
    assert caught.value.subject == "1"
    world.drain()


def test_stop_tokens_end_a_sequence_with_their_reason() -> None:
    prompt = [3, 1, 4]
    expected = continuation(prompt, 6)
    stop = expected[5]
    first = expected.index(stop, 3)
    for sampling, reason in (({"stop_token_ids": (stop,)}, stop), ({}, None)):
        world = World(num_blocks=20)
        seq = world.add(prompt, 10, **sampling)
        if not sampling:
            seq.request = replace(seq.request, stop_ids=frozenset({stop}), sampling=SamplingParams(max_tokens=10))
        world.drain()
        assert seq.tokens == expected[: first + 1] and (seq.finish_reason, seq.stop_reason) == ("stop", reason)


def test_logits_that_are_no_numbers_fail_their_sequence_alone() -> None:
    world = World(num_blocks=20)
    bad, good = world.add([1, 2, 3, 4], 9), world.add([9], 2)
    world.device.bad_positions = {5}
    world.drain()
    assert bad.finish_reason == "error" and bad.tokens == continuation([1, 2, 3, 4], 1)
    assert good.finish_reason == "length" and good.tokens == continuation([9], 2)


def test_the_youngest_is_preempted_and_computes_the_same_again() -> None:
    world = World(num_blocks=5, block_size=2, budget=Budget(8, 2, 8))
    old, young = world.add([1, 2, 3, 4], 6), world.add([5, 6, 7], 4)
    world.drain()
    assert old.num_preemptions == 0 and young.num_preemptions >= 1
    assert old.tokens == continuation([1, 2, 3, 4], 6) and young.tokens == continuation([5, 6, 7], 4)


def test_results_of_an_older_life_are_dropped() -> None:
    world = World(num_blocks=20, budget=Budget(8, 1, 8))
    gone, following_ = world.add([1, 2], 5), world.add([7, 8, 9], 2)
    plan = world.plan()
    assert plan is not None
    result = world.run(plan)
    world.scheduler.abort(gone.request.request_id)
    late = world.plan()
    assert late is not None and late.rows.tolist() == plan.rows.tolist() and late.epochs[0] == plan.epochs[0] + 1
    late_result = world.run(late)
    assert world.scheduler.update(plan, result) == [], "the row has a new life, and the result is of the old one"
    assert gone.finish_reason == "abort" and gone.tokens == [1, 2] and following_.tokens == [7, 8, 9]
    assert world.scheduler.update(late, late_result) == [following_]
    world.drain()
    assert following_.tokens == continuation([7, 8, 9], 2)


def test_aborting_twice_or_an_unknown_request_is_nothing() -> None:
    world = World(num_blocks=20)
    seq, waiting = world.add([1], 3), world.add([2], 3)
    world.scheduler.abort("nobody")
    world.step()
    for request in (seq, waiting, seq):
        world.scheduler.abort(request.request.request_id)
        world.scheduler.check()
    assert not world.scheduler.has_work and world.kv.num_free == 20


@pytest.mark.parametrize("length", [1, 2, 3, 6, 7, 12, 13, 20])
def test_prompt_logprobs_come_once_for_every_token_but_the_first(length: int) -> None:
    world = World(num_blocks=60, budget=Budget(8, 3, 6))
    prompt = [(3 * i) % VOCAB for i in range(length)]
    seq = world.add(prompt, 3, prompt_logprobs=1, logprobs=1)
    world.add([1, 2, 3, 4, 5], 4)
    world.drain()
    assert [entry.token_id for entry in seq.prompt_logprobs] == prompt[1:]
    assert [-entry.logprob for entry in seq.prompt_logprobs] == list(range(length - 1)), "from the position before"
    assert [entry.token_id for entry in seq.logprobs] == seq.tokens[length:]
    assert all(len(entry.top) == 1 for entry in seq.prompt_logprobs + seq.logprobs)


def test_a_plan_says_what_sampling_must_do() -> None:
    world = World(num_blocks=60, budget=Budget(30, 5, 30))
    world.add([1], 2, temperature=0)
    plan = world.plan()
    assert plan is not None and not plan.any_random and plan.num_logprobs == -1
    world.scheduler.update(plan, world.run(plan))
    world.add([1], 1, temperature=0.5, logprobs=3)
    world.add([1, 2], 1, temperature=0, prompt_logprobs=1, logprobs=0)
    plan = world.plan()
    assert plan is not None and plan.any_random and plan.num_logprobs == 3
    assert [new.temperature for new in plan.new_rows] == [0.5, 0.0]
    assert plan.num_logits.tolist() == [1, 1, 2]


# ---- random lives ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    prompt: list[int]
    max_tokens: int
    prompt_logprobs: int | None
    after: int  # steps before it arrives
    abort_after: int | None  # steps before it is dropped


wishes = st.builds(
    Wish,
    prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=14),
    max_tokens=st.integers(1, 9),
    prompt_logprobs=st.sampled_from([None, None, 0, 1]),
    after=st.integers(0, 12),
    abort_after=st.sampled_from([None, None, None, 0, 1, 3, 9]),
)


@given(
    st.lists(wishes, min_size=1, max_size=7),
    st.integers(1, 3),
    st.integers(0, 6),
    st.builds(Budget, num_tokens=st.integers(1, 12), num_seqs=st.integers(1, 4), num_logits=st.integers(1, 6)),
)
@settings(max_examples=250)
def test_whatever_comes_and_goes_everyone_gets_what_they_would_get_alone(
    asked: list[Wish], block_size: int, spare: int, budget: Budget
) -> None:
    need = max(-(-(len(w.prompt) + w.max_tokens - 1) // block_size) for w in asked)
    world = World(num_blocks=max(1, need + spare), block_size=block_size, budget=budget)
    waiting = sorted(enumerate(asked), key=lambda item: item[1].after)
    live: list[tuple[Wish, Sequence]] = []
    for tick in range(3000):
        while waiting and waiting[0][1].after <= tick:
            wish = waiting.pop(0)[1]
            live.append((wish, world.add(wish.prompt, wish.max_tokens, prompt_logprobs=wish.prompt_logprobs)))
        for wish, seq in live:
            if wish.abort_after is not None and tick == wish.after + wish.abort_after:
                world.scheduler.abort(seq.request.request_id)
                world.scheduler.check()
        if not waiting and not world.scheduler.has_work:
            break
        before = world.steps
        world.step()
        assert world.steps > before or not world.scheduler.has_work or waiting, "there is work and nothing is scheduled"
    world.drain()
    for wish, seq in live:
        assert seq.status is Status.FINISHED
        whole = continuation(wish.prompt, wish.max_tokens)
        if seq.finish_reason == "abort":
            assert wish.abort_after is not None and seq.tokens == whole[: len(seq.tokens)]
            continue
        assert seq.finish_reason == "length" and seq.tokens == whole, "preempted or not, the same tokens"
        if wish.prompt_logprobs is not None:
            assert [entry.token_id for entry in seq.prompt_logprobs] == wish.prompt[1:]
            assert [-entry.logprob for entry in seq.prompt_logprobs] == list(range(len(wish.prompt) - 1))
