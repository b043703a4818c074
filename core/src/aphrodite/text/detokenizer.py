"""From tokens to text as they come: exact, and cut at the first stop string."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from aphrodite.text.stops import StopFinder
from aphrodite.text.tokenizer import Tokenizer


class Detokenizer:
    """Text of one sequence, handed out as soon as no later token can change it or make it part of a stop string.

    All that is handed out, together with what finish gives, is `tokenizer.decode` of all the tokens, or what of it
    stands before the first stop string. Work is constant per token, and no text is looked at twice.

    skip_special_tokens  whether special tokens are left out; stop strings are looked for in the text as it is shown
    kept                 special tokens that are shown all the same
    stop                 strings that end it: the one that ends first counts, of two that end together the longer
    include_stop         cut behind the stop string, not before it
    min_tokens           a stop string that is complete with so many tokens or fewer does not count
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool = True,
        kept: Collection[str] = (),
        stop: Sequence[str] = (),
        include_stop: bool = False,
        min_tokens: int = 0,
    ) -> None:
        self._stream = tokenizer.stream(skip_special_tokens=skip_special_tokens, kept=kept)
        self._finder = StopFinder(stop) if stop else None
        self._include_stop = include_stop
        self._min_tokens = min_tokens
        self._parts: list[str] = []  # handed out
        self._held = ""  # settled, and may begin a stop string
        self.num_tokens = 0
        self.stop_string: str | None = None

    @property
    def text(self) -> str:
        """All text handed out so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return "".join(self._parts)

    def append(self, ids: Sequence[int]) -> str:
        """The text that these tokens settle. Those behind the one that completes a stop string are dropped."""
        settled = []
        for token_id in ids:
            if self.stop_string is not None:
                break
            self.num_tokens += 1
            settled.append(self._cut(self._stream.push(token_id)))
        return self._hand_out(settled)

    def finish(self) -> str:
        """The text that was held back: no more tokens come."""
        settled = []
        if self.stop_string is None:
            settled = [self._cut(self._stream.end()), self._held]
            self._held = ""
        return self._hand_out(settled)

    def _cut(self, new: str) -> str:
        """What can be shown now that `new` is settled."""
        if self._finder is None or not new:
            return new
        text = self._held + new
        found = self._finder.feed(new, counts=self.num_tokens > self._min_tokens)
        if found is None:
            shown = len(text) - self._finder.num_held
            self._held = text[shown:]
            return text[:shown]
        self.stop_string, end = found
        end += len(self._held)
        self._held = ""
        return text[: end if self._include_stop else end - len(self.stop_string)]

    def _hand_out(self, settled: Sequence[str]) -> str:
        text = "".join(settled)
        if text:
            self._parts.append(text)
        return text
