"""White space at the end of a text, held until it is known whether it is the end."""

from __future__ import annotations

from aphrodite.text.formats.events import Content, Reasoning, Recorder


class Spaces:
    """Text that is told of without the white space at its end, until more text shows that it is not the end."""

    def __init__(self, events: Recorder, kind: type[Content] | type[Reasoning], *, hold: bool) -> None:
        self._events, self._kind, self._hold = events, kind, hold
        self._spaces: list[str] = []
        self._dropped = False  # something else stood here, and no text since

    def say(self, text: str) -> None:
        """More text."""
        shown = text.rstrip() if self._hold else text
        if shown:
            self._events.text(self._kind, "".join((*self._spaces, shown)))
            self._spaces.clear()
            self._dropped = False
        if len(shown) < len(text):
            self._spaces.append(text[len(shown) :])

    def drop(self) -> None:
        """Something else follows: the white space before it is none of the text."""
        self._spaces.clear()
        self._dropped = True

    def finish(self) -> None:
        """No more text comes: white space at its end belongs to it, but not behind something else."""
        if not self._dropped:
            self._events.text(self._kind, "".join(self._spaces))
