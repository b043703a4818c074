"""Telling the control tokens that a template writes from those that a user spells in a message.

Both end up in one text. The template is rendered a second time with messages in which the characters that control
tokens begin and end with are replaced by stand-ins from Unicode's private planes:

    message    ignore that<|end|>              ignore that‹1›|end|‹2›
    template   <|user|> ... <|end|>            <|user|> ... <|end|>

What carries a stand-in in the second text is the user's in the first: pieces of a token that meet only in the text,
from two messages or from behind something that the template cuts out, too. The first text, which the model is given,
is untouched. So that a template's own logic is not misled (`'</think>' in content`), strings which it compares with
stay as they are; if they are control tokens, marks are put around them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_PRIVATE = re.compile("[\U000f0000-\U0010ffff]")


class Marks:
    """Marks for one chat.

    control   spellings of the control tokens
    literals  strings that the template compares with
    taken     private characters that the chat or the template uses itself
    `private` are the characters that stand for others here.
    """

    def __init__(self, control: Sequence[str], literals: Iterable[str], taken: set[str]) -> None:
        edges = sorted({char for token in control for char in (token.strip()[:1], token.strip()[-1:])} - {""})
        free = (chr(code) for code in range(0x100000, 0x10FFFE) if chr(code) not in taken)
        self._stand_ins = {edge: next(free) for edge in edges}
        self._meant = {stand_in: edge for edge, stand_in in self._stand_ins.items()}
        self._start, self._end = next(free), next(free)
        self.private = frozenset({*self._meant, self._start, self._end})
        kept = {
            text for text in literals
            if any(edge in text for edge in edges) and not any(text in token or token in text for token in control)
        }  # fmt: skip
        self._compared = {token for token in control if any(token in text for text in literals)}
        self._fine = _any_of([*self._compared, *kept, *edges])
        self._whole = _any_of(control)
        self._read = re.compile(f"{self._start}({self._whole.pattern}){self._end}|[{self._start}{self._end}]")
        self._stood_in = _any_of(self._meant)

    def fine(self, text: str) -> str:
        """A user's text with all marks: no control token that holds a part of it goes unnoticed."""
        return self._fine.sub(self._replace, text)

    def whole(self, text: str) -> str:
        """With marks around whole control tokens only, for templates that stumble over the others."""
        return self._whole.sub(f"{self._start}\\g<0>{self._end}", text)

    def _replace(self, match: re.Match[str]) -> str:
        found = match[0]
        if found in self._compared:
            return f"{self._start}{found}{self._end}"
        return self._stand_ins.get(found, found)

    def read(self, marked: str) -> tuple[str, bytearray]:
        """A text that was rendered with marks: the text without them, and 1 for each character that was marked."""
        parts: list[str] = []
        flags = bytearray()
        at = 0
        for match in self._read.finditer(marked):
            self._take(marked[at : match.start()], parts, flags)
            whole = match[1] or ""  # none: a mark that the template cut off from its token
            parts.append(whole)
            flags += b"\1" * len(whole)
            at = match.end()
        self._take(marked[at:], parts, flags)
        return "".join(parts), flags

    def _take(self, text: str, parts: list[str], flags: bytearray) -> None:
        start = len(flags)
        flags += bytes(len(text))
        for match in self._stood_in.finditer(text):
            flags[start + match.start()] = 1
        parts.append(self._stood_in.sub(lambda match: self._meant[match[0]], text))

    def users(self, text: str, flags: bytearray) -> list[tuple[int, int, bool]]:
        """The control tokens in a text: start, end, and whether a user had a part in it."""
        found = []
        for match in self._whole.finditer(text):
            token = match[0]
            first = match.start() + len(token) - len(token.lstrip())
            last = match.end() - 1 - (len(token) - len(token.rstrip()))
            found.append((match.start(), match.end(), bool(flags[first] or flags[last])))
        return found


def private_characters(texts: Iterable[str]) -> set[str]:
    """The private characters in texts."""
    return {char for text in texts for char in _PRIVATE.findall(text)}


def carried_over(plain: str, flags: bytearray, text: str) -> bytearray | None:
    """The flags of one text for another that is the same but for white space, which marks may keep from being trimmed.
    None if it is not the same."""
    if plain == text:
        return flags
    if plain.split() != text.split() and "".join(plain.split()) != "".join(text.split()):
        return None
    of_black = iter([flag for flag, char in zip(flags, plain, strict=True) if not char.isspace()])
    return bytearray(0 if char.isspace() else next(of_black) for char in text)


def changed(value: Any, change: Callable[[str], str]) -> Any:
    """Plain data with all its texts changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): changed(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [changed(item, change) for item in value]
    return value


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of these, the longest first; nothing if there are none."""
    longest_first = sorted({text for text in texts if text}, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
