"""From a continuation's text to what it is: the answer, reasoning, calls of tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from aphrodite.engine.frontend import Frontend
from aphrodite.server.generation import Chat
from aphrodite.text.formats.describe import OutputFormat
from aphrodite.text.formats.events import Content, Event
from aphrodite.text.formats.extract import Extractor
from aphrodite.text.formats.select import Selection, select


class Reader(Protocol):
    """Reads one continuation as it comes."""

    def feed(self, text: str) -> list[Event]:
        """What this text settles."""

    def finish(self) -> list[Event]:
        """What was held back: no more text comes."""


class PlainReader:
    """All of it is the answer."""

    def feed(self, text: str) -> list[Event]:
        """The text."""
        return [Content(text)] if text else []

    def finish(self) -> list[Event]:
        """Nothing."""
        return []


class Reading:
    """How one model's answers are read, and why so."""

    def __init__(self, selection: Selection, special: frozenset[str]) -> None:
        """special  the tokenizer's special tokens."""
        self.selection = selection
        self._special = special

    @classmethod
    def of(cls, frontend: Frontend, chat_template: str | None, tools: str, reasoning: str) -> Reading:
        """For a model with its chat template, or the operator's.

        tools, reasoning  names of formats (text.formats.select)
        """
        tokenizer = frontend.tokenizer
        template = frontend.chat_template(chat_template) if tokenizer is not None else None
        sources = template.sources if template is not None else {}
        added = tokenizer.added_tokens if tokenizer is not None else frozenset()
        special = tokenizer.special_tokens if tokenizer is not None else frozenset()
        return cls(select(sources, added, tools=tools, reasoning=reasoning), special)

    def kept(self, chat: Chat | None) -> frozenset[str]:
        """Special tokens that must stay in the text of an answer to this chat, for the reader to see them."""
        return self._format(chat).kept(self._special)

    def reader(self, chat: Chat | None, prompt: str) -> Reader:
        """A reader for one answer to this chat, behind this text of the prompt."""
        format = self._format(chat)
        if chat is None or format == OutputFormat():
            return PlainReader()
        names = [tool["function"]["name"] for tool in chat.tools] if chat.tools is not None else None
        begun = _text(chat.messages[-1]) if chat.continue_final_message else ""
        return Extractor(format, prompt=prompt, begun=begun, tools=names)

    def _format(self, chat: Chat | None) -> OutputFormat:
        """What is looked for: nothing in a completion, and no calls where there are no tools."""
        if chat is None or not chat.extract:
            return OutputFormat()
        return replace(self.selection.format, tools=self.selection.format.tools if chat.tools is not None else None)


PLAIN = Reading(Selection(OutputFormat(), "nobody asked", "nobody asked"), frozenset())


def _text(message: Mapping[str, Any]) -> str:
    """The text at a message's end."""
    content = message.get("content")
    last = content[-1].get("text") if isinstance(content, list) and content else content
    return last if isinstance(last, str) else ""
