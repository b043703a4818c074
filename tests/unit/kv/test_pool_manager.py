"""Blocks: held and let go of in balance, never block 0, taken longest unused first; room in every group or in none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aphrodite.errors import CapacityError
from aphrodite.kv.manager import KVCacheManager
from aphrodite.kv.pool import BlockPool
from aphrodite.kv.spec import CacheGroup, KVPlan, LayerKV, plan_kv
from aphrodite.types.request import Request, Sequence
from aphrodite.types.sampling_params import SamplingParams

LAYER = LayerKV(num_heads=2, head_dim=8, value_dim=4, itemsize=2)


def manager(num_blocks: int, block_size: int = 4, groups: int = 2) -> KVCacheManager:
    return KVCacheManager(KVPlan(tuple(CacheGroup("full", (LAYER,)) for _ in range(groups)), block_size, num_blocks))


def sequence(groups: int = 2) -> Sequence:
    return Sequence(Request("r", (1,), SamplingParams(), 0, frozenset(), 10), [1], [[] for _ in range(groups)])


class PoolMachine(RuleBasedStateMachine):
    """A pool beside a plain model of it: holders, names, and the order in which free blocks are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(9)
        self.tables: list[list[int]] = []
        self.free = list(range(1, 10))
        self.names: dict[int, bytes] = {}

    @rule(count=st.integers(0, 12))
    def take(self, count: int) -> None:
        blocks = self.pool.take(count)
        if count > len(self.free):
            assert blocks is None
            return
        assert blocks == self.free[:count], "the longest unused go first"
        del self.free[:count]
        for block in blocks:
            self.names.pop(block, None)
        self.tables.append(blocks)

    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        if self.tables:
            table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
            self.pool.give_back(reversed(table))
            for block in reversed(table):
                if not any(block in other for other in self.tables):
                    self.free.insert(len(self.free) if block in self.names else 0, block)

    @rule(data=st.data(), name=st.integers(0, 5).map(lambda n: bytes([n])))
    def publish(self, data: Any, name: bytes) -> None:
        held = sorted({block for table in self.tables for block in table} - set(self.names))
        if held:
            block = data.draw(st.sampled_from(held))
            new = name not in self.names.values()
            assert self.pool.publish(block, name) is new
            if new:
                self.names[block] = name

    @rule(names=st.lists(st.integers(0, 5).map(lambda n: bytes([n])), unique=True))
    def adopt(self, names: list[bytes]) -> None:
        where = {name: block for block, name in self.names.items()}
        assert self.pool.find_each(names) == [where.get(name, 0) for name in names]
        found = self.pool.find(names)
        missing = next((i for i, name in enumerate(names) if name not in where), len(names))
        assert found == [where[name] for name in names[:missing]]
        assert self.pool.count_free(found) == len(set(found) & set(self.free))
        self.pool.adopt(found)
        self.free = [block for block in self.free if block not in found]
        self.tables.append(found)

    @rule(data=st.data())
    def unpublish(self, data: Any) -> None:
        blocks = data.draw(st.lists(st.integers(0, 9), unique=True))
        self.pool.unpublish(blocks)
        for block in blocks:
            self.names.pop(block, None)

    @invariant()
    def is_sound(self) -> None:
        self.pool.check(self.tables)
        assert self.pool.num_free == len(self.free) and self.pool.num_cached == len(self.names)


TestPool = PoolMachine.TestCase


def test_a_block_that_is_not_held_cannot_be_given_back() -> None:
    pool = BlockPool(3)
    for block in (1, 0):
        with pytest.raises(AssertionError, match="is not held"):
            pool.give_back([block])
    (block,) = pool.take(1) or []
    with pytest.raises(AssertionError, match="is not held"):
        pool.give_back([block, block])


def test_a_block_that_is_not_cached_cannot_be_adopted() -> None:
    with pytest.raises(AssertionError, match="is not cached"):
        BlockPool(3).adopt([1])


@given(st.integers(1, 40), st.integers(1, 7), st.lists(st.integers(1, 90), min_size=1, max_size=12))
def test_reserve_gives_exactly_the_blocks_that_are_missing_or_nothing(num: int, size: int, wanted: list[int]) -> None:
    kv, seq = manager(num, size), sequence()
    for tokens in wanted:
        need, have = -(-tokens // size), len(seq.blocks[0])
        assert kv.fits(tokens) == (need <= num)
        changes = kv.reserve(seq, tokens)
        if need > num:
            assert changes is None and len(seq.blocks[0]) == len(seq.blocks[1]) == have
        elif need <= have:
            assert changes == []
        else:
            assert changes is not None and [(c.group, c.start, len(c.blocks)) for c in changes] == [
                (0, have, need - have),
                (1, have, need - have),
            ]
            for mine, change in zip(seq.blocks, changes, strict=True):
                assert len(mine) == need and mine[have:] == change.blocks
        kv.check([seq])
        assert kv.num_free == num - len(seq.blocks[0])
    kv.free(seq)
    assert kv.num_free == num and seq.blocks == [[], []]
    kv.check([])


def test_check_sees_a_lost_and_a_shared_block() -> None:
    kv, one, two = manager(8), sequence(), sequence()
    kv.reserve(one, 9)
    with pytest.raises(AssertionError, match="miscounted"):
        kv.check([])
    two.blocks = [list(blocks) for blocks in one.blocks]
    with pytest.raises(AssertionError, match="miscounted"):
        kv.check([one, two])


def test_the_budget_buys_whole_blocks_of_all_groups_and_block_0() -> None:
    groups = (CacheGroup("full", (LAYER, LAYER)), CacheGroup("sliding", (LAYER,), window=5))
    token = 3 * 2 * (8 + 4) * 2  # layers, heads, key and value, bytes
    plan = plan_kv(groups, block_size=16, num_blocks=None, budget_bytes=token * 16 * 10 + 5)
    assert plan.num_blocks == 9 and plan.num_bytes == token * 16 * 10 and plan.num_tokens == 144
    assert plan_kv(groups, block_size=16, num_blocks=3, budget_bytes=0).num_blocks == 3
    with pytest.raises(CapacityError, match=f"two blocks of 16 tokens need {2 * token * 16}"):
        plan_kv(groups, block_size=16, num_blocks=None, budget_bytes=2 * token * 16 - 1)
