"""A scheduler and a device in plain Python, which believes only what the plans tell it."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aphrodite.errors import CapacityError
from aphrodite.kv.manager import KVCacheManager
from aphrodite.kv.spec import CacheGroup, KVPlan, LayerKV
from aphrodite.sched.scheduler import Budget, Scheduler
from aphrodite.types.request import Request, Sequence
from aphrodite.types.sampling_params import SamplingParams
from aphrodite.types.step import Logprobs, SchedulerOutput, StepOutput

VOCAB = 50
FULL = CacheGroup("full", (LayerKV(1, 4, 4, 4),))


def sliding(window: int) -> CacheGroup:
    return CacheGroup("sliding", (LayerKV(1, 4, 4, 4),), window)


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


class DeviceFailure(Exception):
    pass


class OutOfMemory(Exception):
    pass


@dataclass
class DeviceRow:
    """A row as the device has it: its tokens, how many are computed, and its block tables."""

    tokens: list[int]
    num_computed: int
    scope: object  # whose cache it may read; a broken sequence writes no numbers from some position on
    broken_from: int
    tables: list[dict[int, int]]


Place = tuple[int, int, int]  # group, block, offset


@dataclass
class Device:
    """Runs plans. cache[place] = scope, regime and tokens up to and including the one whose key and value lie there, or
    None where they are no numbers. As in a real network, a step writes the cache for all its rows before it reads it,
    and a row's regime is that of the tokens it has."""

    block_size: int
    num_rows: int
    windows: list[int | None]
    regimes: tuple[int, ...] = ()
    rows: dict[int, DeviceRow] = field(default_factory=dict)
    cache: dict[Place, object] = field(default_factory=dict)
    bad_positions: set[int] = field(default_factory=set)  # lengths at which the logits are no numbers
    fails: bool = False  # the next step
    holds: Callable[[SchedulerOutput], bool] = lambda plan: True  # whether there is memory enough for a step
    zeroed: list[tuple[int, int]] = field(default_factory=list)  # group, block

    def run(self, plan: SchedulerOutput, scopes: dict[int, tuple[object, int]]) -> StepOutput:
        for group, blocks in plan.zero_blocks:
            for block in blocks:
                self.zeroed.append((group, block))
                for offset in range(self.block_size):
                    self.cache.pop((group, block, offset), None)
        if not self.holds(plan):
            raise OutOfMemory
        self.write_rows(plan, scopes)
        entries = list(zip(plan.rows.tolist(), plan.num_new.tolist(), strict=True))
        for row, num_new in entries:
            mine = self.rows[row]
            start, stop = mine.num_computed, mine.num_computed + num_new
            assert num_new >= 1 and stop <= len(mine.tokens), "a step computes known tokens"
            for position in range(start, stop):
                if mine.tokens[position] < 0:
                    continue  # inert
                for group in range(len(self.windows)):
                    place = self.place(mine, group, position)
                    assert place[1] > 0, "keys and values are written to a block of the sequence's own"
                    good = position < mine.broken_from and not self.fails
                    self.cache[place] = self.entry(mine, position) if good else None
        if self.fails:
            self.fails = False
            raise DeviceFailure
        ids: list[int] = []
        chosen: list[tuple[int, int]] = []
        for index, (row, num_new) in enumerate(entries):
            mine = self.rows[row]
            num_logits, draws = int(plan.num_logits[index]), int(plan.draws[index])
            mine.num_computed += num_new
            stop = mine.num_computed
            assert draws <= num_logits <= num_new and (not draws or stop == len(mine.tokens))
            inert = min(mine.tokens) < 0
            numbers = inert or self.attend(mine, stop - num_new, stop)  # an inert row draws something: nobody wants it
            for rank in range(num_logits):
                position = stop - num_logits + rank
                drawn = draws and rank == num_logits - 1
                if drawn:
                    token = following(mine.tokens[: position + 1])
                else:
                    token = mine.tokens[position + 1] if position + 1 < len(mine.tokens) else 0
                if not numbers or (drawn and position + 1 in self.bad_positions):
                    token = -1
                ids.append(token)
                chosen.append((position, token))
            if draws:
                mine.tokens.append(ids[-1])
        assert plan.max_k == max(self.rows[row].num_computed for row, _ in entries)
        return StepOutput(np.array(ids, np.int64), self.logprobs(plan, chosen))

    def write_rows(self, plan: SchedulerOutput, scopes: dict[int, tuple[object, int]]) -> None:
        for new in plan.new_rows:
            assert 0 <= new.row < self.num_rows
            scope, broken_from = scopes[new.row]
            tables: list[dict[int, int]] = [{} for _ in self.windows]
            self.rows[new.row] = DeviceRow(list(new.tokens), new.num_computed, scope, broken_from, tables)
        for added in plan.new_blocks:
            for place, block in enumerate(added.blocks):
                assert block > 0 or self.windows[added.group] is not None, "block 0 belongs to nobody"
                self.rows[added.row].tables[added.group][added.start + place] = block

    def entry(self, row: DeviceRow, position: int) -> object:
        return row.scope, bisect_left(self.regimes, len(row.tokens)), row.tokens[: position + 1]

    def place(self, row: DeviceRow, group: int, position: int) -> Place:
        return group, row.tables[group][position // self.block_size], position % self.block_size

    def attend(self, row: DeviceRow, start: int, stop: int) -> bool:
        """Read all that the new tokens see; whether all of it is numbers."""
        numbers = True
        for group, window in enumerate(self.windows):
            for position in range(0 if window is None else max(0, start - window + 1), stop):
                found = self.cache[self.place(row, group, position)]
                assert found is None or found == self.entry(row, position), "somebody else's cache"
                numbers &= found is not None
        return numbers

    @staticmethod
    def logprobs(plan: SchedulerOutput, chosen: list[tuple[int, int]]) -> Logprobs | None:
        if plan.num_logprobs < 0:
            return None
        values = np.array([[-float(p), -1.0] for p, _ in chosen], np.float32).reshape(-1, 2)
        names = np.array([[token, 0] for _, token in chosen], np.int64).reshape(-1, 2)
        return Logprobs(values, names, np.ones(len(chosen), np.int64))


class World:
    """A scheduler and a device, checked at every step."""

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int = 2,
        budget: Budget | None = None,
        groups: tuple[CacheGroup, ...] = (FULL,),
        policy: str = "fcfs",
        steps_in_flight: int = 0,
        regimes: tuple[int, ...] = (),
        scheduler: Callable[..., Scheduler] = Scheduler,
    ) -> None:
        self.budget = budget or Budget(num_tokens=8, num_seqs=3, num_logits=6)
        self.kv = KVCacheManager(KVPlan(groups, block_size, num_blocks))
        self.scheduler = scheduler(self.kv, self.budget, policy, regimes)
        self.device = Device(block_size, self.budget.num_seqs, [group.window for group in groups], regimes)
        self.num_blocks, self.steps, self.count = num_blocks, 0, 0
        self.broken: dict[str, int] = {}
        self.steps_in_flight = steps_in_flight
        self.flights: deque[tuple[SchedulerOutput, StepOutput]] = deque()
        self.num_overlapped = 0  # steps submitted while another was in flight
        self.num_exhausted = 0  # steps that memory ran out in

    def add(
        self, prompt: list[int], max_tokens: int, *, priority: int = 0, salt: str | None = None, **sampling: Any
    ) -> Sequence:
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, **sampling)
        total = len(prompt) + max_tokens
        request = Request(
            str(self.count),
            tuple(prompt),
            params,
            self.count,
            frozenset(),
            total,
            priority=priority,
            cache_salt=salt,
        )
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
        assert plan.num_new.sum() <= self.scheduler.budget.num_tokens <= self.budget.num_tokens
        assert plan.num_logits.sum() <= self.budget.num_logits
        assert len(set(plan.rows.tolist())) == len(plan.rows), "a row is in a step once"
        for column in (plan.rows, plan.epochs, plan.num_new, plan.num_logits, plan.draws):
            assert column.dtype == np.int32 and len(column) == len(plan.rows)

    def run(self, plan: SchedulerOutput) -> StepOutput:
        scopes = {
            seq.row: (seq.request.cache_salt, self.broken.get(seq.request.request_id, 1 << 30))
            for seq in self.scheduler.live()
        }
        return self.device.run(plan, scopes)

    def step(self) -> list[Sequence]:
        """As the engine does it: submit the next step, then settle the one before."""
        plan = self.plan()
        if plan is not None:
            self.steps += 1
            self.num_overlapped += bool(self.flights)
            try:
                self.flights.append((plan, self.run(plan)))
            except DeviceFailure:
                self.flights.clear()
                self.scheduler.fail()
                self.scheduler.check()
                return []
            except OutOfMemory:
                return self.shed(plan)
        if self.scheduler.must_settle:
            return self.settle(0)
        return self.settle(len(self.flights) - 1 if plan is None else self.steps_in_flight)

    def shed(self, plan: SchedulerOutput) -> list[Sequence]:
        """Memory has run out in this step, which may be any of those in flight."""
        self.num_exhausted += 1
        self.flights.clear()
        ended = self.scheduler.shed(plan, CapacityError("no memory"))
        self.scheduler.check()
        return [] if ended is None else [ended]

    def settle(self, num_left: int = 0) -> list[Sequence]:
        changed = []
        while len(self.flights) > max(0, num_left):
            changed += self.scheduler.update(*self.flights.popleft())
            self.scheduler.check()
        return changed

    def drain(self, limit: int = 3000) -> None:
        end = self.steps + limit
        while self.scheduler.has_work or self.flights:
            before = self.steps, len(self.flights)
            self.step()
            assert before != (self.steps, len(self.flights)), "there is work and nothing is scheduled"
            assert self.steps < end, "it never ends"
        assert self.kv.num_free == self.num_blocks and self.scheduler.schedule() is None
