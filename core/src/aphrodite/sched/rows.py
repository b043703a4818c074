"""Running sequences by device row, as arrays: what the scheduler asks of all of them at once."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aphrodite.sched.stops import StopIds
from aphrodite.types.request import Sequence, Status
from aphrodite.types.step import Int32

Bool = npt.NDArray[np.bool_]
STAGES = ("any_random", "any_truncated", "any_edited", "any_penalised")


@dataclass(frozen=True)
class Members:
    """The rows that have sequences, until the next one starts or stops; those that share a prefix, and so its blocks,
    stand together. The arrays of a step in which all of them decode are these, without a copy."""

    rows: Int32
    epochs: Int32
    ones: Int32
    seqs: list[Sequence]
    num_logprobs: int
    stages: Mapping[str, bool]


class Rows:
    """A row is free or has a sequence. Arrays are [num_rows] and say nothing of free rows but their epoch.

    epochs    bumped when a row's sequence leaves
    computed  tokens computed, known: tokens known, limit: tokens at which the sequence ends
    room      tokens that its blocks hold
    decoding  it has exactly one token to compute, the one drawn last: nothing about it needs Python until it stops or
              its blocks are full, and only then is Sequence.num_computed brought up to `computed`
    logprobs  log-probabilities it wants of drawn tokens, -1 for none
    stages    [num_rows, 4]: which of STAGES its draws need
    """

    def __init__(self, num_rows: int) -> None:
        self.seqs: list[Sequence | None] = [None] * num_rows
        self.stops = StopIds()
        self.epochs, self.computed, self.known, self.limit, self.room, self.logprobs = np.zeros((6, num_rows), np.int32)
        self.decoding = np.zeros(num_rows, np.bool_)
        self.stages = np.zeros((num_rows, len(STAGES)), np.bool_)
        self._free = list(range(num_rows - 1, -1, -1))
        self._by_prefix: list[int] = []
        self._prefixes: list[list[int]] = []
        self._members: Members | None = None

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def members(self) -> Members:
        """Who is running now."""
        if self._members is None:
            rows = np.array(self._by_prefix, np.int32)
            epochs, ones = self.epochs[rows], np.ones(len(rows), np.int32)
            for array in (rows, epochs, ones):
                array.flags.writeable = False  # plans hand them out
            num_logprobs, stages = int(self.logprobs[rows].max(initial=-1)), self.stages_of(rows)
            self._members = Members(rows, epochs, ones, self.at_all(self._by_prefix), num_logprobs, stages)
        return self._members

    def stages_of(self, rows: Int32) -> Mapping[str, bool]:
        """Which stages the draws of these rows need, by their names in SchedulerOutput."""
        needed = np.any(self.stages[rows], axis=0)
        return {name: bool(needed[index]) for index, name in enumerate(STAGES)}

    def start(self, seq: Sequence, room: int) -> None:
        """Give a sequence a row."""
        row = self._free.pop()
        sampling = seq.request.sampling
        seq.row, seq.epoch, seq.status = row, int(self.epochs[row]), Status.RUNNING
        self.seqs[row] = seq
        self.computed[row], self.known[row] = seq.num_computed, len(seq.tokens)
        self.limit[row], self.room[row] = seq.request.max_total_tokens, room
        shaping = seq.request.shaping
        self.stages[row] = sampling.temperature > 0, shaping.truncates, shaping.edits, shaping.penalises
        self.decoding[row] = False
        self.logprobs[row] = -1 if sampling.logprobs is None else sampling.logprobs
        self.stops.add(seq)
        prefix = list(seq.blocks[0])  # as it is now: a place in the order is kept
        place = bisect(self._prefixes, prefix)
        self._prefixes.insert(place, prefix)
        self._by_prefix.insert(place, row)
        self._members = None

    def stop(self, seq: Sequence) -> None:
        """Free a sequence's row; results still on their way belong to an old epoch from here on."""
        row, seq.row = seq.row, -1
        self.seqs[row] = None
        self.decoding[row] = False
        self.epochs[row] += 1
        self.stops.remove(seq)
        self._free.append(row)
        place = self._by_prefix.index(row)
        del self._by_prefix[place], self._prefixes[place]
        self._members = None

    def settle(self, seq: Sequence) -> None:
        """Bring a row's arrays up to its sequence."""
        self.computed[seq.row], self.known[seq.row] = seq.num_computed, len(seq.tokens)
        self.decoding[seq.row] = seq.num_pending == 1 and not seq.wants_prompt_logprobs

    def at(self, row: int) -> Sequence:
        """The sequence of a row that has one."""
        seq = self.seqs[row]
        assert seq is not None
        return seq

    def at_all(self, rows: Iterable[int]) -> list[Sequence]:
        """The sequences of rows that have one."""
        return [seq for seq in map(self.seqs.__getitem__, rows) if seq is not None]

    def check(self, running: list[Sequence], block_size: int) -> None:
        """AssertionError unless rows, arrays and sequences agree."""
        rows = {seq.row for seq in running}
        assert len(rows) == len(running) and rows == set(self._by_prefix), "rows and sequences disagree"
        assert sorted([*rows, *self._free]) == list(range(len(self.seqs))), "a row is lost"
        for seq in running:
            row = seq.row
            assert self.seqs[row] is seq and seq.epoch == self.epochs[row]
            assert self.known[row] == len(seq.tokens)
            assert 0 <= self.computed[row] - seq.num_computed < (block_size if self.decoding[row] else 1)
            assert self.room[row] == len(seq.blocks[0]) * block_size >= seq.num_computed
            assert not self.decoding[row] or self.known[row] - self.computed[row] == 1
        assert np.count_nonzero(self.decoding) <= len(running)
