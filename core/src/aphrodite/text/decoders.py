"""Decoding token by token: each decoder of the tokenizers library as a stage that gives out what is final.

A decoder of the library maps the list of all tokens to a list of pieces, which the next one maps in turn; the text is
their concatenation. A stage here does the same one piece at a time and holds back as little as exactness allows:

    tokens -> [stage] -> pieces -> [stage] -> pieces -> text
                         settled: final whatever follows

    ByteLevel      the bytes of a character that is not complete
    ByteFallback   a run of byte tokens, until another token ends it: one bad byte turns the whole run into U+FFFD
    BPEDecoder     the last token: at the end of the text its suffix is no space
    Replace        behind Fuse, a tail that may begin the pattern
    the others     nothing

Source: tokenizers, src/decoders/*.rs and src/pre_tokenizers/{byte_level,metaspace}.rs, as of 0.23.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tokenizers import decoders

_CLEANINGS = (
    *((f" {mark}", mark) for mark in ".?!,"), (" ' ", "'"),
    *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re"))
)  # fmt: skip
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>", re.ASCII)  # what Rust's u8::from_str_radix reads


class Stage(Protocol):
    """One decoder at work on one sequence."""

    def push(self, piece: str) -> Sequence[str]:
        """The pieces that this one settles."""

    def end(self) -> Sequence[str]:
        """The pieces that were held back: no more come."""


class Chain:
    """The stages of a sequence's decoder, from tokens to text."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._only = stages[0] if len(stages) == 1 else None  # as most have it

    def push(self, token: str) -> str:
        """The text that a token settles."""
        if self._only is not None:
            return "".join(self._only.push(token))
        return "".join(self._through([token], 0))

    def end(self) -> str:
        """The text that was held back."""
        text: list[str] = []
        for place, stage in enumerate(self._stages):
            text.extend(self._through(stage.end(), place + 1))
        return "".join(text)

    def _through(self, pieces: Sequence[str], place: int) -> Sequence[str]:
        for stage in self._stages[place:]:
            if not pieces:
                break
            pieces = [settled for piece in pieces for settled in stage.push(piece)]
        return pieces


def chain_maker(spec: Mapping[str, Any] | None, *, cleans_up: bool = False) -> Callable[[], Chain] | None:
    """What makes a chain for each sequence, from tokenizer.json's decoder. None if that has no exact streaming form.

    cleans_up  whether the text is then cleaned up
    """
    specs = [{"type": "Join"}] if spec is None else _flat(spec)
    if cleans_up:
        cleanings = ({"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in _CLEANINGS)
        specs = [*specs, {"type": "Fuse"}, *cleanings]
    makers: list[Callable[[], Stage]] = []
    fused = False  # whether all text is one piece by now, which comes in parts
    for one in specs:
        make = (_FUSED if fused else _SPLIT).get(one["type"], _none)(one)
        if make is None:
            return None
        makers.append(make)
        fused = fused or one["type"] in ("Fuse", "ByteLevel")
    return lambda: Chain([make() for make in makers])


def cleaned_up(text: str) -> str:
    """Text without the spaces before punctuation that a WordPiece decoder leaves, as Transformers takes them out."""
    for old, new in _CLEANINGS:
        text = text.replace(old, new)
    return text


def _flat(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if spec["type"] != "Sequence":
        return [spec]
    return [inner for one in spec["decoders"] for inner in _flat(one)]


# ---- stages ---------------------------------------------------------------------------------------------------------


class _Each:
    """A decoder that looks at one piece at a time, and treats the first in a way of its own."""

    def __init__(self, first: Callable[[str], str], later: Callable[[str], str]) -> None:
        self._now = first
        self._later = later

    def push(self, piece: str) -> Sequence[str]:
        """The piece, decoded."""
        now, self._now = self._now, self._later
        return (now(piece),)

    def end(self) -> Sequence[str]:
        """Nothing is held."""
        return ()


class _Fuse:
    """All pieces are one from here on; the stages behind are those of _FUSED."""

    def push(self, piece: str) -> Sequence[str]:
        """The piece as it is."""
        return (piece,)

    def end(self) -> Sequence[str]:
        """Nothing is held."""
        return ()


class _Bytes:
    """Characters that stand for bytes, as GPT-2 writes them, to UTF-8; what is none becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: str) -> Sequence[str]:
        """What is complete."""
        try:
            raw = piece.translate(_BYTES).encode("latin-1")
        except UnicodeEncodeError:  # one character that stands for no byte: the whole piece is text as it is
            raw = piece.encode()
        return (self._decoder.decode(raw),)

    def end(self) -> Sequence[str]:
        """What never became complete."""
        return (self._decoder.decode(b"", final=True),)


class _ByteRuns:
    """Runs of tokens <0xNN> to the text that their bytes are, or to one U+FFFD each."""

    def __init__(self) -> None:
        self._run = bytearray()

    def push(self, piece: str) -> Sequence[str]:
        """Nothing for a byte; else the run before, and the piece."""
        byte = _BYTE_TOKEN.fullmatch(piece)
        if byte:
            self._run.append(int(byte[1], 16))
            return ()
        return (*self.end(), piece)

    def end(self) -> Sequence[str]:
        """The run."""
        if not self._run:
            return ()
        run, self._run = self._run, bytearray()
        try:
            return (run.decode(),)
        except UnicodeDecodeError:
            return ("\ufffd",) * len(run)


class _Suffix:
    """Suffixes that end a word to spaces, but for the last token's."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._last: list[str] = []

    def push(self, piece: str) -> Sequence[str]:
        """The piece before."""
        settled = [last.replace(self._suffix, " ") for last in self._last]
        self._last = [piece]
        return settled

    def end(self) -> Sequence[str]:
        """The last piece."""
        return [last.replace(self._suffix, "") for last in self._last]


class _StripStart:
    """Up to `count` characters less at the start of the text."""

    def __init__(self, content: str, count: int) -> None:
        self._content = content
        self._left = count

    def push(self, piece: str) -> Sequence[str]:
        """The part without what is stripped."""
        while self._left and piece:
            if piece[0] == self._content:
                piece = piece[1:]
                self._left -= 1
            else:
                self._left = 0
        return (piece,)

    def end(self) -> Sequence[str]:
        """Nothing is held."""
        return ()


class _ReplaceAcross:
    """A pattern replaced wherever it stands in the text, across tokens."""

    def __init__(self, pattern: str, content: str) -> None:
        self._pattern = pattern
        self._content = content
        self._held = ""

    def push(self, piece: str) -> Sequence[str]:
        """All but a tail that may begin the pattern."""
        *parts, tail = (self._held + piece).split(self._pattern)
        longest = min(len(tail), len(self._pattern) - 1)
        keep = next((n for n in range(longest, 0, -1) if self._pattern.startswith(tail[-n:])), 0)
        self._held = tail[len(tail) - keep :]
        return (self._content.join([*parts, tail[: len(tail) - keep]]),)

    def end(self) -> Sequence[str]:
        """The tail."""
        return (self._held,)


def _byte_characters() -> dict[int, int]:
    """GPT-2's characters for bytes, as str.translate reads them: printable ones stand for themselves, the others for
    256 and up in order. What stands for no byte becomes a character that is none of Latin-1."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return dict.fromkeys(others, 0xFFFF) | {256 + place: byte for place, byte in enumerate(others)}


_BYTES = _byte_characters()


# ---- from what tokenizer.json says to what makes a stage ------------------------------------------------------------

_Maker = Callable[[], Stage]


def _none(spec: Mapping[str, Any]) -> _Maker | None:
    """No exact streaming form."""
    return None


def _join(spec: Mapping[str, Any]) -> _Maker:
    """No decoder at all: tokens with spaces between them."""
    return lambda: _Each(lambda piece: piece, lambda piece: " " + piece)


def _replace(spec: Mapping[str, Any]) -> _Maker | None:
    pattern, content = spec["pattern"].get("String"), spec["content"]
    if not pattern:
        return None
    return lambda: _Each(*[lambda piece: piece.replace(pattern, content)] * 2)


def _replace_across(spec: Mapping[str, Any]) -> _Maker | None:
    pattern, content = spec["pattern"].get("String"), spec["content"]
    return (lambda: _ReplaceAcross(pattern, content)) if pattern else None


def _strip(spec: Mapping[str, Any]) -> _Maker | None:
    content, start = spec["content"], spec["start"]
    if spec["stop"]:
        return None

    def strip(piece: str) -> str:
        most = min(start, len(piece))
        return piece[next((n for n in range(most) if piece[n] != content), most) :]

    return lambda: _Each(strip, strip)


def _strip_start(spec: Mapping[str, Any]) -> _Maker | None:
    return None if spec["stop"] else lambda: _StripStart(spec["content"], spec["start"])


def _metaspace(spec: Mapping[str, Any]) -> _Maker:
    mark = spec["replacement"]
    at_start = " " if spec.get("prepend_scheme", "always") == "never" else ""
    return lambda: _Each(lambda piece: piece.replace(mark, at_start), lambda piece: piece.replace(mark, " "))


def _metaspace_fused(spec: Mapping[str, Any]) -> _Maker:
    mark = spec["replacement"]
    content = " " if spec.get("prepend_scheme", "always") == "never" else ""
    return lambda: _ReplaceAcross(mark, content)


def _word_piece(spec: Mapping[str, Any]) -> _Maker:
    """The library's own rule for one word, with its clean-up, behind a word that it leaves alone."""
    decoder = decoders.WordPiece(prefix=spec["prefix"], cleanup=spec["cleanup"])
    before = decoder.decode(["x"])
    return lambda: _Each(
        lambda piece: str(decoder.decode([piece])), lambda piece: str(decoder.decode(["x", piece]))[len(before) :]
    )


_SPLIT: Mapping[str, Callable[[Mapping[str, Any]], _Maker | None]] = {
    "Join": _join,
    "Replace": _replace,
    "Strip": _strip,
    "Metaspace": _metaspace,
    "WordPiece": _word_piece,
    "Fuse": lambda spec: _Fuse,
    "ByteLevel": lambda spec: _Bytes,
    "ByteFallback": lambda spec: _ByteRuns,
    "BPEDecoder": lambda spec: lambda: _Suffix(spec["suffix"]),
}
_FUSED: Mapping[str, Callable[[Mapping[str, Any]], _Maker | None]] = {
    "Replace": _replace_across,
    "Strip": _strip_start,
    "Metaspace": _metaspace_fused,
    "Fuse": lambda spec: _Fuse,
}
