"""Blocks: given out once, given back once, never block 0; a sequence gets room in every group or in none."""

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
    """A pool beside a set of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.held = BlockPool(9), set[int]()

    @rule(count=st.integers(0, 12))
    def take(self, count: int) -> None:
        free = 9 - len(self.held)
        blocks = self.pool.take(count)
        if count > free:
            assert blocks is None
        else:
            assert blocks is not None and len(set(blocks)) == count
            assert not self.held & set(blocks) and set(blocks) <= set(range(1, 10))
            self.held |= set(blocks)

    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        blocks = data.draw(st.lists(st.sampled_from(sorted(self.held)), unique=True)) if self.held else []
        self.pool.give_back(blocks)
        self.held -= set(blocks)

    @invariant()
    def is_sound(self) -> None:
        self.pool.check()
        assert self.pool.num_free == 9 - len(self.held)


TestPool = PoolMachine.TestCase


def test_a_block_that_is_not_held_cannot_be_given_back() -> None:
    pool = BlockPool(3)
    for block in (1, 0):
        with pytest.raises(AssertionError, match="is not held"):
            pool.give_back([block])
    (block,) = pool.take(1) or []
    with pytest.raises(AssertionError, match="is not held"):
        pool.give_back([block, block])


@given(st.integers(1, 40), st.integers(1, 7), st.lists(st.integers(1, 90), min_size=1, max_size=12))
def test_reserve_gives_exactly_the_blocks_that_are_missing_or_nothing(num: int, size: int, wanted: list[int]) -> None:
    kv, seq = manager(num, size), sequence()
    for tokens in wanted:
        need, have = -(-tokens // size), len(seq.blocks[0])
        assert kv.fits(tokens) == (need <= num)
        added = kv.reserve(seq, tokens)
        if need > num:
            assert added is None and len(seq.blocks[0]) == len(seq.blocks[1]) == have
        else:
            assert added is not None and [len(a) for a in added] == [max(0, need - have)] * 2
            for mine, new in zip(seq.blocks, added, strict=True):
                assert len(mine) == max(have, need) and mine[len(mine) - len(new) :] == new
        kv.check([seq])
        assert kv.num_free == num - len(seq.blocks[0])
    kv.free(seq)
    assert kv.num_free == num and seq.blocks == [[], []]
    kv.check([])


def test_check_sees_a_lost_and_a_shared_block() -> None:
    kv, one, two = manager(8), sequence(), sequence()
    kv.reserve(one, 9)
    with pytest.raises(AssertionError, match="held by no sequence"):
        kv.check([])
    two.blocks = [list(blocks) for blocks in one.blocks]
    with pytest.raises(AssertionError, match="two sequences"):
        kv.check([one, two])


def test_the_budget_buys_whole_blocks_of_all_groups_and_block_0() -> None:
    groups = (CacheGroup("full", (LAYER, LAYER)), CacheGroup("sliding", (LAYER,), window=5))
    token = 3 * 2 * (8 + 4) * 2  # layers, heads, key and value, bytes
    plan = plan_kv(groups, block_size=16, num_blocks=None, budget_bytes=token * 16 * 10 + 5)
    assert plan.num_blocks == 9 and plan.num_bytes == token * 16 * 10 and plan.num_tokens == 144
    assert plan_kv(groups, block_size=16, num_blocks=3, budget_bytes=0).num_blocks == 3
    with pytest.raises(CapacityError, match=f"two blocks of 16 tokens need {2 * token * 16}"):
        plan_kv(groups, block_size=16, num_blocks=None, budget_bytes=2 * token * 16 - 1)
