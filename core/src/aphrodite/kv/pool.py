"""Blocks of one cache group: who holds them, what they hold, which goes next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class BlockPool:
    """Blocks 1 to num_blocks; block 0 is never given out. Every operation is O(1) a block.

    A block that nobody holds is free. It may still be cached: found by the digest of what it holds, until it is taken
    for something else. Free blocks form a ring of explicit links through block 0, so that adopting one from the middle
    is as cheap as taking the first:

        0 -> [ holds nothing | cached, longest unused ... cached, last used ] -> 0
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self._next = [*range(1, num_blocks + 1), 0]
        self._previous = [num_blocks, *range(num_blocks)]
        self._num_holders = [0] * (num_blocks + 1)
        self._digests: list[bytes | None] = [None] * (num_blocks + 1)
        self._cached: dict[bytes, int] = {}

    @property
    def num_cached(self) -> int:
        """Blocks that can be found by their digest."""
        return len(self._cached)

    @property
    def num_evictable(self) -> int:
        """Blocks that can be found by their digest and that nobody holds. Takes time with their number."""
        return self.count_free(self._cached.values())

    def take(self, count: int) -> list[int] | None:
        """`count` free blocks, the longest unused, or None (and nothing taken) if there are fewer."""
        if count > self.num_free:
            return None
        blocks = []
        for _ in range(count):
            block = self._next[0]
            self._unlink(block)
            self._forget(block)
            self._num_holders[block] = 1
            blocks.append(block)
        self.num_free -= count
        return blocks

    def find(self, digests: Sequence[bytes]) -> list[int]:
        """The cached blocks of a chain of digests, as far as it goes."""
        blocks = self.find_each(digests)
        return blocks[: blocks.index(0)] if 0 in blocks else blocks

    def find_each(self, digests: Sequence[bytes]) -> list[int]:
        """The cached block of every digest, 0 where there is none."""
        cached = self._cached
        return [cached.get(digest, 0) for digest in digests]

    def count_free(self, blocks: Iterable[int]) -> int:
        """How many of these blocks nobody holds."""
        holders = self._num_holders
        return sum(not holders[block] for block in blocks)

    def adopt(self, blocks: Iterable[int]) -> None:
        """Hold cached blocks, beside whoever holds them already. Block 0 stands for none."""
        holders, digests = self._num_holders, self._digests
        for block in blocks:
            if not block:
                continue
            assert digests[block] is not None, f"block {block} is not cached"
            if not holders[block]:
                self._unlink(block)
                self.num_free -= 1
            holders[block] += 1

    def give_back(self, blocks: Iterable[int]) -> None:
        """Let go of blocks. Those that nobody holds any more are free; cached ones are taken again last."""
        for block in blocks:
            assert self._num_holders[block] > 0, f"block {block} is not held"
            self._num_holders[block] -= 1
            if not self._num_holders[block]:
                self._link(block, after=0 if self._digests[block] is None else self._previous[0])
                self.num_free += 1

    def publish(self, block: int, digest: bytes) -> bool:
        """Let a held block be found. False if another block with the same content is found already: that one stays."""
        assert self._num_holders[block] > 0, f"block {block} is not held"
        if digest in self._cached:
            return False
        self._forget(block)
        self._cached[digest] = block
        self._digests[block] = digest
        return True

    def unpublish(self, blocks: Iterable[int]) -> None:
        """Let blocks be found no more; who holds them keeps them."""
        for block in blocks:
            self._forget(block)

    def unpublish_all(self) -> None:
        """Forget what every block holds."""
        self.unpublish(list(self._cached.values()))

    def check(self, holders: Sequence[Sequence[int]]) -> None:
        """AssertionError unless the free ring is sound and holds what none of the `holders` (tables of blocks) has."""
        free: list[int] = []
        block = self._next[0]
        while block and len(free) <= self.num_blocks:
            assert self._previous[self._next[block]] == block, "the free ring is torn"
            free.append(block)
            block = self._next[block]
        assert len(set(free)) == len(free) == self.num_free, "a block is free twice, or miscounted"
        counts = [0] * (self.num_blocks + 1)
        for table in holders:
            held = [block for block in table if block]
            assert len(set(held)) == len(held), "a sequence has a block twice"
            for block in held:
                counts[block] += 1
        assert counts == self._num_holders, "holders are miscounted: a block is lost, or held by nobody"
        assert all(not counts[block] for block in free), "a free block is held"
        assert len(free) + sum(map(bool, counts)) == self.num_blocks, "a block is lost"
        assert {d: b for b, d in enumerate(self._digests) if d is not None} == self._cached, "digests disagree"
        assert self._digests[0] is None, "block 0 was published"

    def _forget(self, block: int) -> None:
        digest = self._digests[block]
        if digest is not None:
            del self._cached[digest]
            self._digests[block] = None

    def _link(self, block: int, after: int) -> None:
        follower = self._next[after]
        self._next[after], self._next[block] = block, follower
        self._previous[follower], self._previous[block] = block, after

    def _unlink(self, block: int) -> None:
        before, after = self._previous[block], self._next[block]
        self._next[before], self._previous[after] = after, before
