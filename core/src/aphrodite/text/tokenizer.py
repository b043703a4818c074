"""The tokenizer of a checkpoint folder: tokenizer.json, read by the tokenizers library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from aphrodite.errors import ModelError

_MAX_BYTES = 256 << 20


class Tokenizer:
    """Encodes prompts and decodes ids. Safe to call from several threads."""

    def __init__(self, path: Path) -> None:
        """Read a tokenizer.json. ModelError if it cannot be read."""
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{path} has {path.stat().st_size} bytes, more than {_MAX_BYTES}", subject=str(path))
        try:
            self._tokenizer = _Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path} is not a tokenizer: {error}", subject=str(path)) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def find(cls, folder: Path) -> Tokenizer | None:
        """The folder's tokenizer, None if it has no tokenizer.json."""
        path = folder / "tokenizer.json"
        return cls(path) if path.is_file() else None

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens that the tokenizer adds."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=True).ids
        return ids

    def encode_bare(self, text: str) -> list[int]:
        """Token ids of a piece of text, without special tokens. UnicodeEncodeError if it is no text."""
        text.encode()
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def token(self, token_id: int) -> str | None:
        """The text of one token alone."""
        return self.decode([token_id], skip_special_tokens=False)
