"""One tool call: a JSON object with a name and arguments, or arguments behind a name."""

from __future__ import annotations

import re
from collections.abc import Callable

from aphrodite.text.formats import json_text
from aphrodite.text.formats.describe import Heads, Keys
from aphrodite.text.formats.events import CallEnd, CallStart, Recorder
from aphrodite.text.formats.source import Malformed, Source, Wait

_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)  # an id that a model may give a call
_NAME_SIGNS = frozenset("_-.:/")
_MAX_HEAD = 256  # characters of a name or an id; a longer one is none


class Call:
    """A call that is being read. Until it is told of, it may turn out to be text.

    fits  whether a name may be called; None for any name
    """

    def __init__(
        self,
        index: int,
        source: Source,
        events: Recorder,
        new_id: Callable[[], str],
        fits: Callable[[str], bool] | None = None,
    ) -> None:
        self.name: str | None = None
        self.call_id: str | None = None
        self.started = False
        self.complete = False  # its arguments are
        self._index, self._source, self._events, self._new_id, self._fits = index, source, events, new_id, fits
        self._early: list[str] = []  # arguments that came before the name

    def named(self, name: str) -> None:
        """Its name; what came before it can be told now. Malformed if it is none, or there is one already."""
        if self.name is not None or not name or (self._fits is not None and not self._fits(name)):
            raise Malformed
        self.name = name
        if self._early or self.complete:
            self.start()

    def start(self) -> None:
        """Tell of it, if its name is known."""
        if self.name is None or self.started:
            return
        self.started = True
        self._source.recorded()  # it is no text any more
        given = self.call_id if self.call_id and _ID.fullmatch(self.call_id) else None
        self._events.event(CallStart(self._index, given or self._new_id(), self.name))
        for text in self._early:
            self._events.text(self._index, text)

    def arguments(self, text: str) -> None:
        """More of its arguments."""
        if self.started:
            self._events.text(self._index, text)
        else:
            self._early.append(text)

    def end(self) -> None:
        """Nothing more belongs to it."""
        self._events.event(CallEnd(self._index, self.complete))


def read_object(source: Source, keys: Keys, call: Call, *, strict: bool, inner: bool = False) -> Wait[None]:
    """A call that is one JSON object. Malformed if it has no name, or in a strict form any key that calls do not have.

    inner  whether this is the object under the key that may hold the call itself
    """
    yield from source.expect("{")
    while (char := (yield from source.after_space())) != "}":
        if char != '"':
            raise Malformed
        key = yield from json_text.text(source)
        yield from source.expect(":")
        yield from _member(source, keys, call, key, strict=strict, inner=inner)
        if (yield from source.after_space()) == ",":
            source.take_one()
    source.take_one()
    if inner:
        return
    if call.name is None:
        raise Malformed
    if not call.complete:  # a call without arguments
        call.start()
        call.arguments("{}")
        call.complete = True


def read_headed(source: Source, heads: Heads, call: Call) -> Wait[None]:
    """A call whose name stands before its arguments. Malformed if there is no name, or no object behind it."""
    found: dict[str, str] = {}
    role, head, gap = heads.first, "", False
    while True:
        separator = yield from source.one_of(heads.separators)
        char = "" if separator is not None else (yield from source.peek())
        if separator is not None or char == "{":
            if head:
                found[role] = head
            if separator is None:
                break
            role, head, gap = heads.separators[separator], "", False
        elif char.isspace():
            yield from source.spaces()
            gap = bool(head)
        elif gap or len(head) == _MAX_HEAD or not (char.isalnum() or char in _NAME_SIGNS):
            raise Malformed
        else:
            head += source.take_one()
    call.call_id = found.get("id")
    name = found.get("name", "")
    if heads.counter and name.rpartition(":")[2].isdecimal():
        call.call_id, name = name, name.rpartition(":")[0]
    call.named(name.removeprefix(heads.prefix))
    call.start()
    yield from json_text.value(source, call.arguments)
    call.complete = True


def _member(source: Source, keys: Keys, call: Call, key: str, *, strict: bool, inner: bool) -> Wait[None]:
    char = yield from source.after_space()
    if key in keys.arguments and not call.complete:
        yield from _arguments(source, call, char)
    elif key in keys.name and char == '"':
        call.named((yield from json_text.text(source)))
    elif key == keys.call_id and char == '"':
        call.call_id = yield from json_text.text(source)
    elif key == keys.wrapper and char == '"':
        call.named((yield from json_text.text(source)))
    elif key == keys.wrapper and char == "{" and not inner:
        yield from read_object(source, keys, call, strict=strict, inner=True)
    elif strict and key not in keys.ignored:
        raise Malformed
    else:
        yield from json_text.value(source, _nowhere)


def _arguments(source: Source, call: Call, char: str) -> Wait[None]:
    """Arguments as an object, as a string that holds one, or null for none."""
    if char == "{":
        call.start()
        yield from json_text.value(source, call.arguments)
    elif char == '"':
        call.start()
        yield from json_text.decoded(source, call.arguments)
    elif (yield from source.one_of(("null",))):
        call.start()
        call.arguments("{}")
    else:
        raise Malformed
    call.complete = True
    call.start()


def _nowhere(text: str) -> None:
    """A value that nobody asked for."""
