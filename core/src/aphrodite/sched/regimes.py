"""Lengths in ranges, in each of which a token has keys and values of its own."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

from aphrodite.types.request import Sequence


class Regimes:
    """Which range of lengths a sequence is in. One that grows into the next range starts over, as if it had been
    preempted: it stops drawing at the boundary until that token is settled.

    ends  lengths, ascending, beyond each of which all keys and values of a sequence are others
    """

    def __init__(self, ends: tuple[int, ...]) -> None:
        assert all(a < b for a, b in pairwise((0, *ends)))
        self._ends = ends

    def of(self, seq: Sequence) -> int:
        """The regime of as many tokens as it has."""
        return bisect_left(self._ends, len(seq.tokens))

    def limit(self, seq: Sequence) -> int:
        """Tokens at which a running sequence ends, or is the first time too long for its regime."""
        total = seq.request.max_total_tokens
        return min(total, self._ends[seq.regime] + 1) if seq.regime < len(self._ends) else total
