"""Text that comes in parts, read by coroutines.

A reader is a generator that yields where it needs more text than has come, so it is written as if all text were there:

    char = yield from source.peek()

What is decided depends on the text alone and never on where its parts end: a reader waits while what has come could
still turn out either way. Each character is taken once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from aphrodite.text.stops import StopFinder

T = TypeVar("T")
Wait = Generator[None, None, T]  # gives a T once enough text has come


class Malformed(Exception):
    """The text is not of the form that was begun. What does not fit has not been taken."""


class Source:
    """The text that has come and was not taken yet."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self._closed = False
        self._record: list[str] | None = None

    def put(self, text: str) -> None:
        """More text."""
        self.text = self.text[self.at :] + text
        self.at = 0

    def close(self) -> None:
        """No more text comes."""
        self._closed = True

    def take(self, end: int) -> str:
        """The text up to a place in `text`."""
        taken = self.text[self.at : end]
        self.at = end
        if self._record is not None:
            self._record.append(taken)
        return taken

    def take_one(self) -> str:
        """The next character."""
        return self.take(self.at + 1)

    # ---- what was taken on trial ------------------------------------------------------------------------------------

    def record(self, begun: str) -> None:
        """Keep what is taken from here on, behind `begun`, in case it is not what it looks like."""
        self._record = [begun]

    def recorded(self) -> str:
        """What was kept; keeps no more."""
        kept, self._record = self._record or [], None
        return "".join(kept)

    # ---- readers ----------------------------------------------------------------------------------------------------

    def peek(self) -> Wait[str]:
        """The next character, not taken; "" at the end."""
        while self.at == len(self.text) and not self._closed:
            yield
        return self.text[self.at : self.at + 1]

    def spaces(self) -> Wait[str]:
        """White space, as far as it goes."""
        run: list[str] = []
        while (char := (yield from self.peek())) and char.isspace():
            end = self.at
            while end < len(self.text) and self.text[end].isspace():
                end += 1
            run.append(self.take(end))
        return "".join(run)

    def after_space(self) -> Wait[str]:
        """The next character that is no white space, not taken; "" at the end."""
        yield from self.spaces()
        return (yield from self.peek())

    def expect(self, char: str) -> Wait[None]:
        """Takes this character, white space before it too. Malformed if another comes."""
        if (yield from self.after_space()) != char:
            raise Malformed
        self.take_one()

    def one_of(self, options: Iterable[str]) -> Wait[str | None]:
        """Takes the longest of these texts that stands here; None if none does."""
        options = sorted(options, key=len, reverse=True)
        while True:
            ahead = len(self.text) - self.at
            for option in options:
                if self.text.startswith(option, self.at):
                    return self.take(self.at + len(option))
                if ahead < len(option) and not self._closed and option.startswith(self.text[self.at :]):
                    break  # may become this one, which is longer than those that follow
            else:
                return None
            yield

    def until(self, finder: StopFinder, sink: Callable[[str], None]) -> Wait[str | None]:
        """The first of the finder's markers, taken; None at the end. `sink` is given all text before it, as it comes.

        finder  a fresh one. What may become part of a marker is not taken before it is known not to
        """
        held = 0  # characters that the finder has seen and nobody has taken
        while True:
            found = finder.feed(self.text[self.at + held :])
            if found is not None:
                marker, end = found
                end += self.at + held
                sink(self.take(end - len(marker)))
                return self.take(end) or None
            held = finder.num_held
            sink(self.take(len(self.text) - (0 if self._closed else held)))
            if self._closed:
                return None
            yield
