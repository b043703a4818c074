"""Messages from standard input: typed with line editing, or one a line of a pipe."""

from __future__ import annotations

import sys
from typing import Protocol

_BLOCK = '"""'
_PROMPT = "> "
_MORE = "... "


class Lines(Protocol):
    """Where messages come from."""

    is_terminal: bool

    def message(self) -> str | None:
        """The next message, which may have several lines between two \"\"\"; None at the end."""
        ...


def open_lines() -> Lines:
    """Of standard input, whatever it is."""
    return _Typed() if sys.stdin.isatty() and sys.stdout.isatty() else _Piped()


def _collect(first: str, more: _Reader) -> str:
    """A message from its first line; an open block goes on to the line that ends it."""
    if not first.lstrip().startswith(_BLOCK):
        return first
    text = first.lstrip().removeprefix(_BLOCK)
    while _BLOCK not in text:
        line = more.line(_MORE)
        if line is None:
            return text.removeprefix("\n")
        text += f"\n{line}"
    return text.partition(_BLOCK)[0].removeprefix("\n").removesuffix("\n")


class _Reader(Protocol):
    def line(self, prompt: str) -> str | None: ...


class _Typed:
    """A terminal: a prompt, line editing, and earlier lines by arrow keys, where the platform has readline."""

    is_terminal = True

    def __init__(self) -> None:
        try:
            import readline
        except ImportError:
            return
        readline.set_auto_history(True)

    def message(self) -> str | None:
        first = self.line(_PROMPT)
        return None if first is None else _collect(first, self)

    def line(self, prompt: str) -> str | None:
        try:
            return input(prompt)
        except EOFError:
            print("", file=sys.stderr)
            return None


class _Piped:
    """A pipe or a file: nothing is written between the answers."""

    is_terminal = False

    def message(self) -> str | None:
        first = self.line("")
        return None if first is None else _collect(first, self)

    def line(self, prompt: str) -> str | None:
        text = sys.stdin.readline()
        return text.removesuffix("\n").removesuffix("\r") if text else None
