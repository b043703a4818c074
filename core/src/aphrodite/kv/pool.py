"""Blocks of one cache group: which are free, which belong to a sequence."""

from __future__ import annotations

from collections.abc import Iterable


class BlockPool:
    """Blocks 1 to num_blocks; block 0 is never given out. Taking and giving back are O(1) a block."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks, 0, -1))  # a stack: low numbers first, recently used memory again
        self._held = bytearray(num_blocks + 1)

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int] | None:
        """`count` free blocks, or None (and nothing taken) if there are fewer."""
        if count > len(self._free):
            return None
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._held[block] = 1
        return blocks

    def give_back(self, blocks: Iterable[int]) -> None:
        """Return blocks that were taken."""
        for block in blocks:
            assert self._held[block], f"block {block} is not held"
            self._held[block] = 0
            self._free.append(block)

    def check(self) -> None:
        """AssertionError unless every block is either free once or held."""
        assert len(set(self._free)) == len(self._free), "a block is free twice"
        assert all(not self._held[block] for block in self._free), "a free block is held"
        assert len(self._free) + sum(self._held) == self.num_blocks, "a block is lost"
        assert not self._held[0], "block 0 was given out"
