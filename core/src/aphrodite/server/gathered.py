"""A continuation that is put together from its pieces."""

from __future__ import annotations

from collections.abc import Mapping

from aphrodite.server.generation import Choice, Piece, ToolCall
from aphrodite.text.formats.events import CallArguments, CallEnd, CallStart, Content, Reasoning
from aphrodite.types.outputs import Logprob


class Gathered:
    """Parts are joined once, at the end: an answer may have a hundred thousand of them."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[CallStart, list[str]]] = []
        self._complete: set[int] = set()  # calls whose arguments are whole
        self._token_ids: list[int] = []
        self._logprobs: list[Mapping[int, Logprob]] | None = None
        self._last: Piece | None = None

    def add(self, piece: Piece) -> None:
        """What comes next."""
        for event in piece.events:
            match event:
                case Content(text):
                    self._content.append(text)
                case Reasoning(text):
                    self._reasoning.append(text)
                case CallStart():
                    self._calls.append((event, []))
                case CallArguments(index, text):
                    self._calls[index][1].append(text)
                case CallEnd(index, complete):
                    self._complete |= {index} if complete else set()
        self._token_ids += piece.token_ids
        if piece.logprobs is not None:
            self._logprobs = self._logprobs if self._logprobs is not None else []
            self._logprobs += piece.logprobs
        self._last = piece

    def choice(self) -> Choice:
        """All of it."""
        return Choice(
            "".join(self._content),
            "".join(self._reasoning),
            [
                ToolCall(start.call_id, start.name, "".join(parts), start.index in self._complete)
                for start, parts in self._calls
            ],
            self._token_ids,
            self._logprobs,
            self._last.finish_reason if self._last is not None else None,
            self._last.stop_reason if self._last is not None else None,
        )
