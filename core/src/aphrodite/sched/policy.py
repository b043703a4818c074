"""Who goes first: sequences in the order of a policy."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from aphrodite.config.engine import SCHEDULING_POLICIES
from aphrodite.types.request import Sequence


class Queue:
    """Sequences in the order in which they are served.

    fcfs      by arrival
    priority  by Request.priority, lower first; ties by arrival
    A preempted sequence keeps its arrival, and so comes back to its old place.
    """

    def __init__(self, policy: str) -> None:
        assert policy in SCHEDULING_POLICIES
        self.has_priorities = policy == "priority"
        self._backwards: list[Sequence] = []  # the last comes first: that end of a list is cheap

    def key(self, seq: Sequence) -> tuple[int, int]:
        """Larger is served earlier."""
        return (-seq.request.priority if self.has_priorities else 0, -seq.arrival)

    def add(self, seq: Sequence) -> None:
        """Put a sequence in its place."""
        self._backwards.insert(self._place(seq), seq)

    def remove(self, seq: Sequence) -> None:
        """Take a sequence out; it must be there."""
        place = self._place(seq)
        assert self._backwards[place] is seq
        del self._backwards[place]

    @property
    def first(self) -> Sequence:
        return self._backwards[-1]

    @property
    def last(self) -> Sequence:
        return self._backwards[0]

    def __len__(self) -> int:
        return len(self._backwards)

    def __iter__(self) -> Iterator[Sequence]:
        return reversed(self._backwards)

    def _place(self, seq: Sequence) -> int:
        return bisect_left(self._backwards, self.key(seq), key=self.key)
