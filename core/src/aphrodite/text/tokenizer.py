"""The tokenizer of a checkpoint folder: tokenizer.json, read by the tokenizers library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from aphrodite.errors import ModelError
from aphrodite.text.decoders import chain_maker
from aphrodite.text.guarded import GuardedEncoder
from aphrodite.text.stream import ChainStream, TokenStream, WholeStream
from aphrodite.text.tokenizer_config import TokenizerConfig

_MAX_BYTES = 256 << 20
_LONG_CHARS = 1 << 14


class Tokenizer:
    """Encodes prompts and decodes ids. Safe to call from several threads.

    tokenizer.json is followed to the letter. Transformers 5 builds some classes anew instead (LlamaTokenizer in a
    folder of model_type llama): for texts that begin with a space, or hold special tokens, it then places spaces
    otherwise than that file and the SentencePiece model behind it.
    """

    def __init__(self, path: Path, config: TokenizerConfig | None = None) -> None:
        """Read a tokenizer.json; `config` is what stands beside it. ModelError if it cannot be read."""
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{path} has {path.stat().st_size} bytes, more than {_MAX_BYTES}", subject=str(path))
        try:
            self._tokenizer = _Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path} is not a tokenizer: {error}", subject=str(path)) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if config is not None:
            self._tokenizer.add_tokens(list(config.to_add(self._tokenizer.get_added_tokens_decoder())))
            self._tokenizer.encode_special_tokens = config.split_special
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)
        self._guarded: dict[tuple[str, ...], GuardedEncoder] = {}
        self._control: dict[str, tuple[str, ...]] = {}  # by template
        decoder = self._tokenizer.decoder
        self._make_chain = chain_maker(json.loads(decoder.__getstate__()) if decoder is not None else None)

    @classmethod
    def find(cls, folder: Path) -> Tokenizer | None:
        """The folder's tokenizer, with the added tokens that tokenizer_config.json has; None without tokenizer.json."""
        path = folder / "tokenizer.json"
        return cls(path, TokenizerConfig.read(folder)) if path.is_file() else None

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens that the tokenizer adds."""
        return self._ids(text, add_special_tokens=True)

    def encode_bare(self, text: str) -> list[int]:
        """Token ids of a piece of text, without special tokens. UnicodeEncodeError if it is no text."""
        text.encode()
        return self._ids(text, add_special_tokens=False)

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Of the library's functions only those for several texts let other threads run meanwhile, an engine's among
        them: a long text takes a second a megabyte."""
        if len(text) < _LONG_CHARS:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        else:
            ids = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    def control_tokens(self, text: str) -> tuple[str, ...]:
        """Special tokens, and the other added tokens that stand in a template's text; none that is white space."""
        if text not in self._control:
            added = self._tokenizer.get_added_tokens_decoder().values()
            names = (token.content for token in added if token.special or token.content in text)
            self._control[text] = tuple(name for name in names if name and not name.isspace())
        return self._control[text]

    def encode_guarded(self, text: str, found: Sequence[tuple[int, int, bool]], control: tuple[str, ...]) -> list[int]:
        """Token ids of a text in which each control token found (start, end) is itself, or is text.

        The first call with these control tokens makes a copy of the tokenizer. UsageError if it can only be itself.
        """
        if control not in self._guarded:
            added = self._tokenizer.get_added_tokens_decoder().values()
            tokens = [token for token in added if token.content in control]
            self._guarded[control] = GuardedEncoder(self._tokenizer, tokens)
        return self._guarded[control].encode(text, found)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def stream(self, *, skip_special_tokens: bool = True) -> TokenStream:
        """Decodes one sequence token by token, to the same text as `decode` does of all of it."""
        if self._make_chain is None:
            return WholeStream(lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens))
        skipped = self._special if skip_special_tokens else frozenset()
        return ChainStream(self._tokenizer.id_to_token, skipped, self._make_chain())

    def token(self, token_id: int) -> str | None:
        """The text of one token alone."""
        return self.decode([token_id], skip_special_tokens=False)
