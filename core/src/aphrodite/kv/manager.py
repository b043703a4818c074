"""Which blocks each sequence has, in every cache group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from aphrodite.kv.pool import BlockPool
from aphrodite.kv.prefix import HashChain
from aphrodite.kv.spec import KVPlan
from aphrodite.types.request import Sequence
from aphrodite.types.step import ZeroBlocks


@dataclass(frozen=True)
class Match:
    """What the prefix cache has for a sequence: that many of its first tokens, in these blocks of each group."""

    num_tokens: int
    blocks: tuple[list[int], ...]


class Change(NamedTuple):
    """Entries of a sequence's block table that are new, from `start` on."""

    group: int
    start: int
    blocks: list[int]


class Usage(NamedTuple):
    """Blocks of the first group: all usable ones, those that nobody holds, and those of these that are cached."""

    num_blocks: int
    num_free: int
    num_evictable: int


class KVCacheManager:
    """Finds, reserves, publishes and frees blocks. One pool a group; a sequence needs room in all of them.

    A sliding group keeps the last `window` tokens: blocks wholly behind the window are given back as the sequence
    advances, and block 0 stands in the table where they were.

        [ 0 0 0 | window, computed | reserved ]
    """

    def __init__(self, plan: KVPlan, *, prefix_caching: bool = True, key: bytes | None = None) -> None:
        self.block_size = plan.block_size
        self.num_groups = len(plan.groups)
        self.prefix_caching = prefix_caching
        self._pools = [BlockPool(plan.num_blocks) for _ in plan.groups]
        self._windows = [group.window for group in plan.groups]
        self._sliding = [(number, window) for number, window in enumerate(self._windows) if window is not None]
        self.slides = bool(self._sliding)  # whether `advance` ever has something to do
        self._chain = HashChain(plan.block_size, key)
        self._tainted: list[set[int]] = [set() for _ in plan.groups]  # held, and what they hold is no number
        self._dirty: list[set[int]] = [set() for _ in plan.groups]  # tainted and given back since the last step

    # ---- room ---------------------------------------------------------------------------------------------------

    def fits(self, num_tokens: int) -> bool:
        """Whether a sequence of that length fits into an empty cache, even if one step computes all of it."""
        return all(self.num_blocks(num_tokens) <= pool.num_blocks for pool in self._pools)

    def has_room(self, seq: Sequence, num_tokens: int, match: Match | None = None) -> bool:
        """Whether `reserve` would find blocks."""
        tables = seq.blocks if match is None else match.blocks
        missing = self.num_blocks(num_tokens) - len(tables[0])
        for pool, table in zip(self._pools, tables, strict=True):
            if pool.num_free < missing:
                return False
            if match is not None and pool.num_free < missing + len(table):
                idle = pool.count_free(block for block in table if block)  # free now, and adopted then
                if pool.num_free - idle < missing:
                    return False
        return True

    def reserve(self, seq: Sequence, num_tokens: int, match: Match | None = None) -> list[Change] | None:
        """Make room for the sequence's first `num_tokens` tokens, adopting what `match` found for one that starts.
        Returns what is new in its block tables, or None (and nothing changed) if some pool has too few blocks."""
        if not self.has_room(seq, num_tokens, match):
            return None
        start = len(seq.blocks[0])
        if match is not None:
            assert start == 0, "a sequence adopts blocks before it has any"
            self._adopt(seq, match)
        missing = self.num_blocks(num_tokens) - len(seq.blocks[0])
        if missing > 0:
            for pool, table in zip(self._pools, seq.blocks, strict=True):
                table += pool.take(missing) or ()
        elif len(seq.blocks[0]) == start:
            return []
        return [Change(group, start, table[start:]) for group, table in enumerate(seq.blocks)]

    def extend(self, seq: Sequence) -> list[Change]:
        """One more block in each group, for a sequence whose blocks are full; there must be one (`num_free`)."""
        changes = []
        for group, pool in enumerate(self._pools):
            table, blocks = seq.blocks[group], pool.take(1)
            assert blocks is not None, "there is no free block"
            changes.append(Change(group, len(table), blocks))
            table += blocks
        return changes

    def _adopt(self, seq: Sequence, match: Match) -> None:
        for pool, table, found in zip(self._pools, seq.blocks, match.blocks, strict=True):
            pool.adopt(found)
            table += found
        seq.num_published = seq.num_adopted = match.num_tokens // self.block_size

    def advance(self, seq: Sequence) -> list[Change]:
        """Give back blocks of sliding groups that are wholly behind the window of the next token."""
        changes = []
        for group, window in self._sliding:
            table = seq.blocks[group]
            end = start = self._first_needed(seq.num_computed, window)
            while start and table[start - 1]:
                start -= 1
            if start < end:
                self._give_back(group, table[start:end])
                table[start:end] = [0] * (end - start)
                changes.append(Change(group, start, table[start:end]))
        return changes

    def free(self, seq: Sequence) -> None:
        """Give back all of a sequence's blocks, tail first: heads of prompts are the likeliest to be met again."""
        for group, table in enumerate(seq.blocks):
            self._give_back(group, [block for block in reversed(table) if block])
            table.clear()
        seq.num_published = seq.num_adopted = 0

    def _give_back(self, group: int, blocks: list[int]) -> None:
        pool, tainted = self._pools[group], self._tainted[group]
        pool.give_back(blocks)
        if tainted:
            idle = {block for block in tainted.intersection(blocks) if pool.count_free((block,))}
            tainted -= idle
            self._dirty[group] |= idle

    @property
    def num_free(self) -> int:
        """Free blocks of the fullest pool, cached ones included."""
        return min(pool.num_free for pool in self._pools)

    def num_blocks(self, num_tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-num_tokens // self.block_size)

    # ---- prefix cache -------------------------------------------------------------------------------------------

    def match(self, seq: Sequence) -> Match:
        """The longest run of the sequence's first tokens that is cached; at least one token is left to compute.
        Changes nothing but the sequence's digests. Prompt log-probabilities need every token computed: no match."""
        if not self.prefix_caching or not seq.reads_cache or seq.request.sampling.prompt_logprobs is not None:
            return Match(0, tuple([] for _ in self._pools))
        limit = (len(seq.tokens) - 1) // self.block_size
        self._chain.extend(seq, limit)
        digests = seq.digests if len(seq.digests) == limit else seq.digests[:limit]
        tables: list[list[int]] = []
        for pool, window in zip(self._pools, self._windows, strict=True):
            tables.append(pool.find(digests) if window is None else pool.find_each(digests))
        length = min(map(len, tables))
        if self._sliding:
            length = self._longest(tables, length)
        for table, window in zip(tables, self._windows, strict=True):
            del table[length:]
            if window is not None:
                behind = self._first_needed(length * self.block_size, window)
                table[:behind] = [0] * behind
        return Match(length * self.block_size, tuple(tables))

    def publish(self, seq: Sequence, num_tokens: int, fresh: list[Change] | None = None) -> None:
        """Let the full blocks among the first `num_tokens` tokens, all of them known, be found. Those that were not
        before are added to `fresh`, so that they can be unpublished if the step that computes them fails."""
        end = num_tokens // self.block_size
        start = seq.num_published
        if not self.prefix_caching or end <= start:
            return
        self._chain.extend(seq, end)
        digests = seq.digests
        for group, pool in enumerate(self._pools):
            table = seq.blocks[group]
            for place in range(start, end):
                block = table[place]
                if block and pool.publish(block, digests[place]) and fresh is not None:
                    fresh.append(Change(group, place, [block]))
        seq.num_published = end

    def unpublish(self, blocks: Iterable[Change]) -> None:
        """Take back what `publish` returned."""
        for change in blocks:
            self._pools[change.group].unpublish(change.blocks)

    def taint(self, seq: Sequence) -> None:
        """What the sequence computed is no number. Let no block of its tokens be found: its own, adopted ones, those it
        gave back behind a window. Those that it holds are to be zeroed once nobody does."""
        for group, pool in enumerate(self._pools):
            pool.unpublish(pool.find_each(seq.digests))
            self._tainted[group].update(block for block in seq.blocks[group] if block)

    @property
    def dirty(self) -> tuple[ZeroBlocks, ...]:
        """Tainted blocks that were given back: the next step zeroes them before anything else."""
        if not any(self._dirty):
            return ()
        return tuple(ZeroBlocks(group, tuple(sorted(dirty))) for group, dirty in enumerate(self._dirty) if dirty)

    def clean(self) -> None:
        """The step that zeroes them is on its way."""
        for dirty in self._dirty:
            dirty.clear()

    def soil(self, blocks: Iterable[ZeroBlocks]) -> None:
        """The step that was to zero these has failed: the next one does it."""
        for group, dirty in blocks:
            self._dirty[group].update(dirty)

    def reset(self) -> None:
        """Forget all that is cached. Running sequences keep their blocks; nothing computed so far is found again."""
        for pool in self._pools:
            pool.unpublish_all()
        self._chain.renew()

    @property
    def num_cached(self) -> int:
        """Blocks that can be found, in all groups."""
        return sum(pool.num_cached for pool in self._pools)

    def usage(self) -> Usage:
        """How full the first group is."""
        pool = self._pools[0]
        return Usage(pool.num_blocks, pool.num_free, pool.num_evictable)

    def check(self, live: Iterable[Sequence]) -> None:
        """AssertionError unless pools are sound and hold exactly the blocks of the live sequences."""
        sequences = list(live)
        for group, pool in enumerate(self._pools):
            pool.check([seq.blocks[group] for seq in sequences])
        for seq in sequences:
            assert len({len(table) for table in seq.blocks}) == 1, "block tables have one length"
            assert seq.num_adopted <= seq.num_published <= len(seq.blocks[0])
            for table, window in zip(seq.blocks, self._windows, strict=True):
                behind = 0 if window is None else self._first_needed(seq.num_computed, window)
                assert all(table[behind:]), "a block that is still read was given back"

    def _first_needed(self, num_computed: int, window: int) -> int:
        """The first block that a token at position `num_computed` still reads: it sees itself and window - 1 before."""
        return max(0, num_computed - window + 1) // self.block_size

    def _longest(self, tables: list[list[int]], limit: int) -> int:
        """The longest match of at most `limit` blocks that has, in every sliding group, all that its window reads."""
        runs = [0] * len(self._sliding)  # blocks without a gap that end here
        best = 0
        for length in range(1, limit + 1):
            good = True
            for place, (group, window) in enumerate(self._sliding):
                runs[place] = runs[place] + 1 if tables[group][length - 1] else 0
                good &= runs[place] >= length - self._first_needed(length * self.block_size, window)
            if good:
                best = length
        return best
