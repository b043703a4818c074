"""What is found in a model's output: a closed set of events, in the order in which they were written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins; `index` counts the calls of one answer from 0, `call_id` names it in the conversation."""

    index: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, JSON as text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The call is over. complete: whether its arguments are whole; else the output ended or went wrong inside them."""

    index: int
    complete: bool


Event = Reasoning | Content | CallStart | CallArguments | CallEnd


class Recorder:
    """Events as they happen; texts of one kind that follow each other become one event."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._kind: type[Reasoning] | type[Content] | int | None = None  # an int is the call that has arguments
        self._texts: list[str] = []

    def text(self, kind: type[Reasoning] | type[Content] | int, text: str) -> None:
        """More reasoning, content, or arguments of the call with this number."""
        if kind != self._kind:
            self._settle()
            self._kind = kind
        if text:
            self._texts.append(text)

    def event(self, event: Event) -> None:
        """Another event."""
        self._settle()
        self._events.append(event)

    def take(self) -> list[Event]:
        """The events since the last time."""
        self._settle()
        events, self._events = self._events, []
        return events

    def _settle(self) -> None:
        if self._texts:
            text = "".join(self._texts)
            kind = self._kind
            assert kind is not None
            self._events.append(CallArguments(kind, text) if isinstance(kind, int) else kind(text))
        self._kind, self._texts = None, []
