"""The scheduler against a device in plain Python, which believes only what the plans tell it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aphrodite.errors import CapacityError
from aphrodite.kv.manager import KVCacheManager
from aphrodite.kv.spec import CacheGroup, KVPlan, LayerKV
from aphrodite.sched.scheduler import Budget, Scheduler
from aphrodite.types.request import Request, Sequence, Status
from aphrodite.types.sampling_params import SamplingParams
from aphrodite.types.step import Logprobs, SchedulerOutput, StepOutput

VOCAB, GROUP = 50, CacheGroup("full", (LayerKV(1, 4, 4, 4),))


def following(tokens: list[int]) -> int:
    """The model: a token that depends on everything before it."""
    value = 7
    for token in tokens:
        value = (value * 31 + token + 1) % 1_000_003
    return value % VOCAB


def continuation(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(following(tokens))
    return tokens


@dataclass
class DeviceRow:
    """A row as the device has it: its tokens, how many are computed, its block table, and what the cache holds."""

    tokens: list[int]
    num_computed: int
    table: dict[int, int] = field(default_factory=dict)


class Device:
    """Runs plans. cache[block, offset] = the tokens up to and including the one whose key and value lie there."""

    def __init__(self, block_size: int, num_rows: int) -> None:
        self.block_size, self.num_rows = block_size, num_rows
        self.rows: dict[int, DeviceRow] = {}
        self.cache: dict[tuple[int, int], tuple[int, ...]] = {}
        self.bad_positions: set[int] = set()  # lengths at which the logits are no numbers

    def run(self, plan: SchedulerOutput) -> StepOutput:
        for new in plan.new_rows:
            assert 0 <= new.row < self.num_rows
            self.rows[new.row] = DeviceRow(list(new.tokens), new.num_computed)
        for added in plan.new_blocks:
            for place, block in enumerate(added.blocks):
                assert block > 0, "block 0 belongs to nobody"
                self.rows[added.row].table[added.start + place] = block
        ids: list[int] = []
        chosen: list[tuple[int, ...]] = []
        longest = 0
        for row, num_new, num_logits, draws in zip(plan.rows, plan.num_new, plan.num_logits, plan.draws, strict=True):
            mine = self.rows[int(row)]
            start, stop = mine.num_computed, mine.num_computed + int(num_new)
            assert num_new >= 1 and stop <= len(mine.tokens), "a step computes known tokens"
            assert draws <= num_logits <= num_new and (not draws or stop == len(mine.tokens))
            for position in range(start, stop):
                block = mine.table[position // self.block_size]
                self.cache[block, position % self.block_size] = tuple(mine.tokens[: position + 1])
            for position in range(stop):  # attention reads all of it
                block = mine.table[position // self.block_size]
                assert self.cache[block, position % self.block_size] == tuple(mine.tokens[: position + 1])
            for rank in range(int(num_logits)):
                position = stop - int(num_logits) + rank
                drawn = draws and rank == num_logits - 1
                token = following(mine.tokens[: position + 1]) if drawn else -1
                if not drawn:
                    token = mine.tokens[position + 1] if position + 1 < len(mine.tokens) else 0
                if drawn and position + 1 in self.bad_positions:
                    token = -1
                ids.append(token)
                chosen.append((position, token))
            mine.num_computed = stop
            if draws:
                mine.tokens.append(ids[-1])
            longest = max(longest, stop)
        assert plan.max_k == longest
        logprobs = None
        if plan.num_logprobs >= 0:
            values = np.array([[-float(p), -1.0] for p, _ in chosen], np.float32).reshape(-1, 2)
            names = np.array([[token, 0] for _, token in chosen], np.int64).reshape(-1, 2)
            logprobs = Logprobs(values, names, np.ones(len(chosen), np.int64))
        return StepOutput(np.array(ids, np.int64), logprobs)


class World:
    """A scheduler and a device, checked at every step."""

    def __init__(self, *, num_blocks: int, block_size: int = 2, budget: Budget | None = None) -> None:
        self.budget = budget or Budget(num_tokens=8, num_seqs=3, num_logits=6)
        self.kv = KVCacheManager(KVPlan((GROUP,), block_size, num_blocks))
        self.scheduler = Scheduler(self.kv, self.budget)
        self.device = Device(block_size, self.budget.num_seqs)
        self.num_blocks, self.steps, self.count = num_blocks, 0, 0

    def add(self, prompt: list[int], max_tokens: int, **sampling: Any) -> Sequence:
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, **sampling)
        request = Request(str(self.count), tuple(prompt), params, self.count, frozenset(), len(prompt) + max_tokens)
        self.count += 1
        return self.scheduler.add(request)

    def plan(self) -> SchedulerOutput | None:
        plan = self.scheduler.schedule()
        self.scheduler.check()
        if plan is not None:
            self.within_budget(plan)
        return plan

    def within_budget(self, plan: SchedulerOutput) -> None:
        assert 0 < len(plan.rows) <= self.budget.num_seqs
        assert plan.num_new.sum() <= self.budget.num_tokens and plan.num_logits.sum() <= self.budget.num_logits
        assert len(set(plan.rows.tolist())) == len(plan.rows), "a row is in a step once"
        for column in (plan.rows, plan.epochs, plan.num_new, plan.num_logits, plan.draws):
            assert column.dtype == np.int32 and len(column) == len(plan.rows)

    def step(self) -> list[Sequence]:
        plan = self.plan()
        if plan is None:
            return []
        changed = self.scheduler.update(plan, self.device.run(plan))
        self.scheduler.check()
        self.steps += 1
        return changed

    def drain(self, limit: int = 3000) -> None:
        while self.scheduler.has_work:
            before = self.steps
            self.step()
            assert self.steps > before, "there is work and nothing is scheduled"
            assert self.steps < limit, "it never ends"
        assert self.kv.num_free == self.num_blocks and self.scheduler.schedule() is None


# ---- single cases ---------------------------------------------------------------------------------------------------


def test_a_prompt_is_cut_into_chunks_of_the_budget_and_draws_once_it_is_whole() -> None:
    world = World(num_blocks=20, budget=Budget(4, 2, 4))
    seq = world.add(list(range(10)), 3)
    seen = []
    while world.scheduler.has_work:
        plan = world.plan()
        assert plan is not None
        seen.append((plan.num_new.tolist(), plan.num_logits.tolist(), plan.draws.tolist()))
        world.scheduler.update(plan, world.device.run(plan))
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
    result = world.device.run(plan)
    world.scheduler.abort(gone.request.request_id)
    assert gone.finish_reason == "abort" and world.scheduler.update(plan, result) == [] and gone.tokens == [1, 2]
    late = world.plan()
    assert late is not None and late.rows.tolist() == plan.rows.tolist() and late.epochs[0] == plan.epochs[0] + 1
    assert world.scheduler.update(plan, result) == [], "the row has a new life, and the result is of the old one"
    assert following_.num_computed == 0
    world.scheduler.update(late, world.device.run(late))
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
    world.scheduler.update(plan, world.device.run(plan))
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
