"""JSON in a text that comes in parts, handed on as it stands, each character looked at once.

Models write JSON nearly right. What is wrong inside a string and plain in its meaning is put right on the way: a
control character or a backslash that stands for itself is escaped. Anything else is Malformed, and whatever was taken
has been handed on by then.
Source: RFC 8259.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from aphrodite.text.formats.source import Malformed, Source, Wait

Sink = Callable[[str], None]

_MAX_DEPTH = 64  # of what a call is given; deeper is refused as it is in requests
_RUN = re.compile(r'[^"\\\x00-\x1f]+')
_WORD = re.compile(r"[-+.\w]+", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_LITERALS = frozenset(("true", "false", "null"))
_MAX_WORD = 400
_SIMPLE = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = frozenset("0123456789abcdefABCDEF")
_CLOSES = {"{": "}", "[": "]"}


def value(source: Source, sink: Sink) -> Wait[None]:
    """One value, handed on as JSON. Malformed where it stops being one; what was right until there is handed on."""
    open_: list[str] = []
    while True:
        char = yield from _next(source, sink)
        if char in _CLOSES:
            if len(open_) == _MAX_DEPTH:
                raise Malformed
            sink(source.take_one())
            open_.append(char)
            if (yield from _next(source, sink)) != _CLOSES[char]:
                if char == "{":
                    yield from _key(source, sink)
                continue
        elif char == '"':
            yield from _string(source, sink)
        else:
            yield from _word(source, sink)
        while open_:  # a value has ended inside these
            char = yield from _next(source, sink)
            if char == ",":
                sink(source.take_one())
                if open_[-1] == "{":
                    yield from _next(source, sink)
                    yield from _key(source, sink)
                break
            if char != _CLOSES[open_[-1]]:
                raise Malformed
            open_.pop()
            sink(source.take_one())
        else:
            return


def decoded(source: Source, sink: Sink) -> Wait[None]:
    """A string's text, without quotes and escapes. Malformed at the end of the text."""
    yield from source.expect('"')
    while True:
        char = yield from source.peek()
        if char == '"':
            source.take_one()
            return
        if char == "\\":
            sink((yield from _escaped(source)))
        elif char:
            sink(_run(source) or source.take_one())
        else:
            raise Malformed


def text(source: Source) -> Wait[str]:
    """A whole string's text."""
    parts: list[str] = []
    yield from decoded(source, parts.append)
    return "".join(parts)


def _next(source: Source, sink: Sink) -> Wait[str]:
    """The next character that is no white space, not taken; the white space is handed on."""
    sink((yield from source.spaces()))
    return (yield from source.peek())


def _key(source: Source, sink: Sink) -> Wait[None]:
    yield from _string(source, sink)
    if (yield from _next(source, sink)) != ":":
        raise Malformed
    sink(source.take_one())


def _string(source: Source, sink: Sink) -> Wait[None]:
    if (yield from source.peek()) != '"':
        raise Malformed
    sink(source.take_one())
    while True:
        char = yield from source.peek()
        if char == '"':
            sink(source.take_one())
            return
        if char == "\\":
            yield from _escape(source, sink)
        elif char and char < " ":
            sink(f"\\u{ord(source.take_one()):04x}")
        elif char:
            sink(_run(source))
        else:
            raise Malformed


def _run(source: Source) -> str:
    """Characters that stand for themselves."""
    found = _RUN.match(source.text, source.at)
    return source.take(found.end()) if found else ""


def _escape(source: Source, sink: Sink) -> Wait[None]:
    """A backslash and what belongs to it, as JSON."""
    source.take_one()
    char = yield from source.peek()
    if not char:
        sink("\\")
        raise Malformed
    if char == "u":
        source.take_one()
        digits = yield from _digits(source)
        sink("\\u" + digits if len(digits) == 4 else "\\\\u" + digits)
    elif char in _SIMPLE:
        sink("\\" + source.take_one())
    else:
        sink("\\\\")  # a backslash that stands for itself


def _escaped(source: Source) -> Wait[str]:
    """What a backslash and what belongs to it mean."""
    source.take_one()
    char = yield from source.peek()
    if char in _SIMPLE:
        return _SIMPLE[source.take_one()]
    if char != "u":
        return "\\"
    source.take_one()
    digits = yield from _digits(source)
    if len(digits) < 4:
        return "\\u" + digits
    code = int(digits, 16)
    if 0xD800 <= code < 0xDC00 and (yield from source.one_of(("\\u",))):
        low = yield from _digits(source)
        if len(low) == 4 and 0xDC00 <= int(low, 16) < 0xE000:
            return chr(0x10000 + ((code - 0xD800) << 10) + int(low, 16) - 0xDC00)
        return "\ufffd" + (_character(int(low, 16)) if len(low) == 4 else "\\u" + low)
    return _character(code)


def _character(code: int) -> str:
    return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)  # half a pair is no character


def _digits(source: Source) -> Wait[str]:
    digits = ""
    while len(digits) < 4 and (yield from source.peek()) in _HEX:
        digits += source.take_one()
    return digits


def _word(source: Source, sink: Sink) -> Wait[None]:
    """A number or a literal. Malformed behind any other word."""
    parts: list[str] = []
    left = _MAX_WORD
    while left and (yield from source.peek()) and (found := _WORD.match(source.text, source.at, source.at + left)):
        left -= found.end() - source.at
        parts.append(source.take(found.end()))
    word = "".join(parts)
    sink(word)
    if not left or (word not in _LITERALS and _NUMBER.fullmatch(word) is None):
        raise Malformed
