"""Stop strings in a text that comes in parts."""

from __future__ import annotations

import copy
from collections.abc import Sequence


class StopFinder:
    """Finds the stop string that ends first, in a text that comes in parts; of two that end together, the longer.

    An automaton over characters (Aho and Corasick 1975, "Efficient string matching"): a state is the longest end of the
    text that begins a stop string, so what has to be held back is known at all times and no text is looked at twice.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]  # by state; 0 has read nothing that counts
        self._depth = [0]
        self._found: list[str | None] = [None]
        for stop in stops:
            self._insert(stop)
        self._fallback = [0] * len(self._next)
        self._link()
        self._state = 0

    def again(self) -> StopFinder:
        """One that looks for the same in another text."""
        other = copy.copy(self)
        other._state = 0
        return other

    @property
    def num_held(self) -> int:
        """Characters at the end of the text that may begin a stop string."""
        state = self._state
        while state and not self._next[state]:  # a whole stop string that did not count begins none
            state = self._fallback[state]
        return self._depth[state]

    def feed(self, text: str, *, counts: bool = True) -> tuple[str, int] | None:
        """Read on. The stop string found and where in `text` it ends; nothing may be fed after that.

        counts  whether a stop string that ends in this text counts
        """
        if self._state == 0 and self._next[0].keys().isdisjoint(text):
            return None
        state = self._state
        for place, char in enumerate(text):
            while state and char not in self._next[state]:
                state = self._fallback[state]
            state = self._next[state].get(char, 0)
            stop = self._found[state]
            if stop is not None and counts:
                return stop, place + 1
        self._state = state
        return None

    def _insert(self, stop: str) -> None:
        state = 0
        for char in stop:
            if char not in self._next[state]:
                self._next[state][char] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._found.append(None)
            state = self._next[state][char]
        self._found[state] = stop

    def _link(self) -> None:
        """From each state to that of the next shorter end of its text, and to the stop strings that end there too."""
        todo = list(self._next[0].values())
        for state in todo:  # grows: breadth first, so that shorter ends are linked already
            for char, target in self._next[state].items():
                back = self._fallback[state]
                while back and char not in self._next[back]:
                    back = self._fallback[back]
                self._fallback[target] = self._next[back].get(char, 0)
                if self._found[target] is None:
                    self._found[target] = self._found[self._fallback[target]]
                todo.append(target)
