"""Which blocks each sequence has, in every cache group."""

from __future__ import annotations

from collections.abc import Iterable

from aphrodite.kv.pool import BlockPool
from aphrodite.kv.spec import KVPlan
from aphrodite.types.request import Sequence


class KVCacheManager:
    """Reserves and frees blocks for sequences. One pool a group; a sequence needs room in all of them."""

    def __init__(self, plan: KVPlan) -> None:
        self.block_size = plan.block_size
        self.num_groups = len(plan.groups)
        self._pools = [BlockPool(plan.num_blocks) for _ in plan.groups]

    def match(self, seq: Sequence) -> int:
        """Tokens of a new sequence whose keys and values are in the cache already: none, without a prefix cache."""
        return 0

    def fits(self, num_tokens: int) -> bool:
        """Whether a sequence of that length fits into an empty cache."""
        return all(self._blocks(num_tokens) <= pool.num_blocks for pool in self._pools)

    def reserve(self, seq: Sequence, num_tokens: int) -> list[list[int]] | None:
        """Make room for the sequence's first `num_tokens` tokens. Returns the blocks added by group, which it now owns,
        or None (and nothing changed) if some pool has too few."""
        missing = [max(0, self._blocks(num_tokens) - len(mine)) for mine in seq.blocks]
        if any(pool.num_free < need for pool, need in zip(self._pools, missing, strict=True)):
            return None
        added = []
        for pool, need, mine in zip(self._pools, missing, seq.blocks, strict=True):
            blocks = pool.take(need)
            assert blocks is not None
            mine.extend(blocks)
            added.append(blocks)
        return added

    def free(self, seq: Sequence) -> None:
        """Give back all of a sequence's blocks, tail first."""
        for pool, mine in zip(self._pools, seq.blocks, strict=True):
            pool.give_back(reversed(mine))
            mine.clear()

    @property
    def num_free(self) -> int:
        """Free blocks of the fullest pool."""
        return min(pool.num_free for pool in self._pools)

    def check(self, live: Iterable[Sequence]) -> None:
        """AssertionError unless pools are sound and hold exactly the blocks of the live sequences."""
        sequences = list(live)
        for group, pool in enumerate(self._pools):
            pool.check()
            held = [block for seq in sequences for block in seq.blocks[group]]
            assert len(set(held)) == len(held), "a block belongs to two sequences"
            assert len(held) + pool.num_free == pool.num_blocks, "blocks are held by no sequence"

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)
