"""Encoding a text in which some control tokens are control tokens, and others only look like them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence

from tokenizers import AddedToken
from tokenizers import Tokenizer as _Tokenizer

from aphrodite.errors import UsageError

# A text, and where control tokens stand in it: start, end, and whether it is only text.
GuardedEncode = Callable[[str, Sequence[tuple[int, int, bool]]], list[int]]


class GuardedEncoder:
    """A copy of a tokenizer in which control tokens are ordinary text, and secret aliases of them are the tokens.

    So the whole text is encoded at once, cut at the same places and with the same rules for spaces as ever. Between
    two control tokens of the template all is one text, in which what a user spelled is encoded as if it were no
    token, together with its neighbours.
    """

    def __init__(self, tokenizer: _Tokenizer, control: Sequence[AddedToken]) -> None:
        written = tokenizer.to_str()
        model = json.loads(written)["model"]
        self._copy = _Tokenizer.from_str(written)
        unknown = tokenizer.token_to_id(model.get("unk_token") or "")
        self._unknown = model.get("unk_id") if unknown is None else unknown  # what any text may give
        self._ids = {token.content: tokenizer.token_to_id(token.content) for token in control}
        # The copy can be told to read special tokens as text, so all of these become special there.
        self._copy.add_special_tokens(
            [AddedToken(token.content, normalized=token.normalized, special=True) for token in control]
        )
        secret = secrets.token_hex(8)  # a user who could guess an alias could write a control token
        self._aliases = {token.content: f"\U0010f8f0{place}.{secret}\U0010f8f1" for place, token in enumerate(control)}
        self._cut = f"\U0010f8f0{secret}\U0010f8f1"
        self._copy.add_tokens(
            [
                *(
                    AddedToken(self._aliases[token.content], lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)
                    for token in control
                ),
                AddedToken(self._cut, normalized=False),
            ]
        )
        self._copy.encode_special_tokens = True
        self._of_alias = {self._copy.token_to_id(alias): self._ids[text] for text, alias in self._aliases.items()}
        self._of_alias[self._copy.token_to_id(self._cut)] = None

    def encode(self, text: str, found: Sequence[tuple[int, int, bool]]) -> list[int]:
        """Ids of a text with these control tokens: start, end, and whether it is only text.

        Some vocabularies (Unigram's) make a control token of its spelling whatever they are told. Then the spelling is
        cut behind its first character. UsageError if not even that helps.
        """
        for cut in ("", self._cut):
            ids = self._encode(text, found, cut)
            if ids is not None:
                return ids
        raise UsageError("messages spell a control token that this tokenizer cannot write as text", subject="messages")

    def _encode(self, text: str, found: Sequence[tuple[int, int, bool]], cut: str) -> list[int] | None:
        parts = []
        at = 0
        for start, end, is_text in found:
            token = text[start:end]
            parts += [text[at:start], token[:1] + cut + token[1:] if is_text else self._aliases[token]]
            at = end
        raw = self._copy.encode("".join([*parts, text[at:]]), add_special_tokens=False).ids
        if not ({*self._ids.values()} - {self._unknown}).isdisjoint(raw):
            return None
        ids = [self._of_alias.get(token, token) for token in raw]
        return [token for token in ids if token is not None]
