"""Finding what a body has in place of a number: NaN, Infinity, 1e999. JSON has no such words, and parsers name none."""

from __future__ import annotations

import contextlib
import math
import re
from itertools import islice

import msgspec

_MOST_TOKENS = 20_000  # what comes later is not found: it would be looked for for too long
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s"\[\]{},:]+', re.DOTALL)
_WORD = re.compile(rb"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_LONGEST = 400  # digits; no number as long is finite, or needs them


def find(body: bytes) -> tuple[str, str] | None:
    """The path of the first value that is no finite number, and the value; None if none was found.

    [ {"a": [1, {"b": NaN}]} ]  ->  a[1].b, NaN
    """
    stack: list[str | int] = []  # of each open bracket the key or the place that its values have now
    text = b""
    for match in islice(_TOKEN.finditer(body), _MOST_TOKENS):
        token = match.group()
        if token[:1] == b'"':
            text = token
        elif token in (b"[", b"{"):
            stack.append(0 if token == b"[" else "")
        elif token in (b"]", b"}"):
            del stack[-1:]
        elif token == b":" and stack:
            stack[-1] = _key(text)
        elif token == b"," and stack and isinstance(stack[-1], int):
            stack[-1] += 1
        elif _is_no_number(token):
            return _path(stack), token[:32].decode("ascii", "replace")
    return None


def _is_no_number(token: bytes) -> bool:
    if _WORD.fullmatch(token):
        return True
    return bool(_NUMBER.fullmatch(token)) and (len(token) > _LONGEST or math.isinf(float(token)))


def _key(text: bytes) -> str:
    with contextlib.suppress(msgspec.DecodeError):
        found = msgspec.json.decode(text, type=str)
        return (found if found.isprintable() else ascii(found))[:64]
    return ""


def _path(stack: list[str | int]) -> str:
    parts = (f"[{one}]" if isinstance(one, int) else f".{one}" for one in stack)
    return "".join(parts).removeprefix(".")
