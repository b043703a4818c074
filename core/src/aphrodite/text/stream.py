"""Token ids to text, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from aphrodite.text.decoders import Chain


class TokenStream(Protocol):
    """Decodes one sequence. All that push and end return, together, is the decoding of all the ids."""

    def push(self, token_id: int) -> str:
        """The text that this token settles: nothing that follows can change it."""

    def end(self) -> str:
        """The text that was held back: no more tokens come."""


class ChainStream:
    """Through the stages of a decoder, in constant work per token."""

    def __init__(self, token_of: Callable[[int], str | None], skipped: frozenset[str], chain: Chain) -> None:
        """token_of gives a token as the vocabulary spells it, None for ids that have none."""
        self._token_of = token_of
        self._skipped = skipped
        self._chain = chain

    def push(self, token_id: int) -> str:
        """The text that this token settles."""
        token = self._token_of(token_id)
        return "" if token is None or token in self._skipped else self._chain.push(token)

    def end(self) -> str:
        """The text that was held back."""
        return self._chain.end()


class WholeStream:
    """All at the end: for a decoder in which any token may change all text before it."""

    def __init__(
        self,
        token_of: Callable[[int], str | None],
        skipped: frozenset[str],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        """decode gives the text of ids, special tokens too."""
        self._token_of = token_of
        self._skipped = skipped
        self._decode = decode
        self._ids: list[int] = []

    def push(self, token_id: int) -> str:
        """Nothing."""
        if self._token_of(token_id) not in self._skipped:
            self._ids.append(token_id)
        return ""

    def end(self) -> str:
        """Everything."""
        ids, self._ids = self._ids, []
        return self._decode(ids) if ids else ""
