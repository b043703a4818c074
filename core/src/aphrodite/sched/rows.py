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

    Steps may be in flight: what they compute and draw is counted when they are scheduled.

        tokens   [ settled: the host has them | drawn by steps in flight ]
                 0           ...              ^ settled                  ^ known

    epochs    bumped when a row's sequence leaves
    settled   tokens that the host has
    known     tokens there will be once all steps in flight are settled
    computed  tokens computed once they are
    limit     tokens at which the sequence ends, or starts over: known never passes it
    room      tokens that its blocks hold
    decoding  the next step computes exactly one token, the one drawn last, whose value the device alone needs: nothing
              about it needs Python until it stops or its blocks are full, and only then is Sequence.num_computed
              brought up to `computed`
    partial   rows that are in the middle of known tokens: Python looks at each of them
    logprobs  log-probabilities it wants of drawn tokens, -1 for none
    stages    [num_rows, 4]: which of STAGES its draws need
    """

    def __init__(self, num_rows: int) -> None:
        self.seqs: list[Sequence | None] = [None] * num_rows
        self.stops = StopIds()
        self.epochs, self.settled, self.known, self.computed = np.zeros((4, num_rows), np.int32)
        self.limit, self.room, self.logprobs = np.zeros((3, num_rows), np.int32)
        self.decoding = np.zeros(num_rows, np.bool_)
        self.partial: set[int] = set()
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

    def start(self, seq: Sequence, room: int, limit: int) -> None:
        """Give a sequence a row."""
        row = self._free.pop()
        sampling = seq.request.sampling
        seq.row, seq.epoch, seq.status = row, int(self.epochs[row]), Status.RUNNING
        self.seqs[row] = seq
        self.computed[row], self.known[row], self.settled[row] = seq.num_computed, len(seq.tokens), len(seq.tokens)
        self.limit[row], self.room[row] = limit, room
        shaping = seq.request.shaping
        self.stages[row] = sampling.temperature > 0, shaping.truncates, shaping.edits, shaping.penalises
        self.decoding[row] = False
        self.partial.add(row)
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
        self.partial.discard(row)
        self.epochs[row] += 1
        self.stops.remove(seq)
        self._free.append(row)
        place = self._by_prefix.index(row)
        del self._by_prefix[place], self._prefixes[place]
        self._members = None

    def schedule(self, numbers: Int32, num_new: Int32, draws: Int32) -> None:
        """Count a step in that computes so many new tokens of these rows and draws from the last, where draws is 1.
        Who draws its last token is not scheduled again."""
        self.computed[numbers] += num_new
        self.known[numbers] = known = self.known[numbers] + draws
        self.decoding[numbers] = (draws > 0) & (known < self.limit[numbers])

    def at(self, row: int) -> Sequence:
        """The sequence of a row that has one."""
        seq = self.seqs[row]
        assert seq is not None
        return seq

    def at_all(self, rows: Iterable[int]) -> list[Sequence]:
        """The sequences of rows that have one."""
        return [seq for seq in map(self.seqs.__getitem__, rows) if seq is not None]

    def check(self, running: list[Sequence], block_size: int, num_in_flight: int) -> None:
        """AssertionError unless rows, arrays and sequences agree."""
        rows = {seq.row for seq in running}
        assert len(rows) == len(running) and rows == set(self._by_prefix), "rows and sequences disagree"
        assert sorted([*rows, *self._free]) == list(range(len(self.seqs))), "a row is lost"
        for seq in running:
            row = seq.row
            assert self.seqs[row] is seq and seq.epoch == self.epochs[row]
            assert self.settled[row] == len(seq.tokens) <= self.known[row] <= self.limit[row]
            assert self.known[row] - self.settled[row] <= num_in_flight, "a token is drawn by a step"
            assert 0 <= self.computed[row] - seq.num_computed <= block_size
            assert self.room[row] == len(seq.blocks[0]) * block_size >= self.computed[row]
            assert not self.decoding[row] or self.known[row] - self.computed[row] == 1
            pending = self.computed[row] < self.settled[row] and not self.decoding[row]
            assert pending == (row in self.partial)
            assert not pending or seq.num_computed == self.computed[row]
        assert np.count_nonzero(self.decoding) <= len(running)
        assert self.partial <= rows
