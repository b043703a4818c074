"""From a continuation's text to what it is: the answer, reasoning, calls of tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aphrodite.server.generation import Chat
from aphrodite.text.formats.events import Content, Event


class Reader(Protocol):
    """Reads one continuation as it comes."""

    def feed(self, text: str) -> list[Event]:
        """What this text settles."""

    def finish(self) -> list[Event]:
        """What was held back: no more text comes."""


ReaderMaker = Callable[[Chat, str], Reader]
"""Makes a reader for an answer to this chat, behind this text of the prompt."""


class PlainReader:
    """All of it is the answer."""

    def feed(self, text: str) -> list[Event]:
        """The text."""
        return [Content(text)] if text else []

    def finish(self) -> list[Event]:
        """Nothing."""
        return []


def plain_reader(chat: Chat, prompt: str) -> Reader:
    """For models whose format is not known."""
    return PlainReader()
