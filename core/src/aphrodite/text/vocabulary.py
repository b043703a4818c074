"""What a Tokenizer encodes and decodes with: here, a tokenizer.json in the tokenizers library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tokenizers import AddedToken
from tokenizers import Tokenizer as _Library

from aphrodite.errors import AphroditeError, ModelError
from aphrodite.text.decoders import chain_maker, cleaned_up
from aphrodite.text.growth import MOST, growth
from aphrodite.text.guarded import GuardedEncode, GuardedEncoder
from aphrodite.text.stream import ChainStream, TokenStream, WholeStream
from aphrodite.text.tokenizer_config import TokenizerConfig, read_tokenizer
from aphrodite.text.unsound import refuse_unsound

_LONG_CHARS = 1 << 14


class Vocabulary(Protocol):
    """Text to ids and back."""

    @property
    def added(self) -> Mapping[str, bool]:
        """Tokens that are found in a text before it is cut into others, and whether they are special."""

    def encode(self, text: str, *, bare: bool) -> list[int]:
        """Token ids; with the special tokens around a prompt, but for bare text."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of ids."""

    def stream(self, skipped: frozenset[str]) -> TokenStream:
        """Decodes one sequence token by token; special tokens that are left out."""

    def guarded(self, control: Sequence[str]) -> GuardedEncode:
        """Encodes texts in which each control token found (start, end, whether it is only text) is told apart."""


class LibraryVocabulary:
    """A tokenizer of the tokenizers library."""

    def __init__(self, library: _Library, *, cleans_up: bool = False) -> None:
        """cleans_up  whether decoded text is cleaned up behind the library's decoder"""
        self._library = library
        self._cleans_up = cleans_up
        library.no_truncation()
        library.no_padding()
        added = library.get_added_tokens_decoder().values()
        self.added: Mapping[str, bool] = {token.content: token.special for token in added}
        decoder = library.decoder
        spec = json.loads(decoder.__getstate__()) if decoder is not None else None
        self._make_chain = chain_maker(spec, cleans_up=cleans_up)

    def encode(self, text: str, *, bare: bool) -> list[int]:
        """Token ids.

        Of the library's functions only those for several texts let other threads run meanwhile, an engine's among
        them: a long text takes a second a megabyte.
        """
        ids: list[int]
        if len(text) < _LONG_CHARS:  # quicker for a short one: no other thread of the library is woken
            ids = self._library.encode(text, add_special_tokens=not bare).ids
        else:
            ids = self._library.encode_batch_fast([text], add_special_tokens=not bare)[0].ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of ids."""
        text: str = self._library.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return cleaned_up(text) if self._cleans_up else text

    def stream(self, skipped: frozenset[str]) -> TokenStream:
        """Decodes one sequence token by token, where the decoder has an exact streaming form."""
        if self._make_chain is None:
            return WholeStream(self._library.id_to_token, skipped, partial(self.decode, skip_special_tokens=False))
        return ChainStream(self._library.id_to_token, skipped, self._make_chain())

    def guarded(self, control: Sequence[str]) -> GuardedEncode:
        """In a copy of the tokenizer."""
        added = self._library.get_added_tokens_decoder().values()
        return GuardedEncoder(self._library, [token for token in added if token.content in control]).encode


def read_vocabulary(path: Path, config: TokenizerConfig) -> LibraryVocabulary:
    """A tokenizer.json with what stands beside it. ModelError if it cannot be read."""
    text = read_tokenizer(path)
    refuse_unsound(path, text)
    try:
        library, filed = _rebuilt(text, config) if config.tokenizer_class else _as_filed(text)
        library.add_tokens(list(config.to_add(library.get_added_tokens_decoder(), filed)))
        if config.tokenizer_class is not None:
            config.tokenizer_class.finish(library, config.special(filed), config.names.get("bos_token"))
        library.encode_special_tokens = config.split_special
        _refuse_growth(library, path)
        return LibraryVocabulary(library, cleans_up=tidies(library, config.data))
    except (KeyboardInterrupt, AphroditeError):
        raise
    except BaseException as error:  # the library raises bare Exception, and what Rust calls a panic
        raise ModelError(f"{path} is not a tokenizer: {error}", subject=str(path)) from None


def _refuse_growth(library: _Library, path: Path) -> None:
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        part = getattr(library, name)
        if part is not None and (times := growth(json.loads(part.__getstate__()))) > MOST:
            raise ModelError(
                f"{path}: its {name} may make a text {times} times as long, more than {MOST}: it would take all memory",
                subject=name,
            )


def tidies(library: _Library, config: Mapping[str, Any]) -> bool:
    """Whether a tokenizer_config.json has decoded text cleaned up, which BPE's is not unless forced."""
    force = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    is_bpe = type(library.model).__name__ == "BPE"
    return bool(config.get("clean_up_tokenization_spaces")) and (not is_bpe or bool(config.get(force)))


def _as_filed(text: bytes) -> tuple[_Library, Mapping[int, AddedToken]]:
    """The tokenizer, and the file's added tokens."""
    library = _Library.from_str(text.decode())
    return library, library.get_added_tokens_decoder()


def _rebuilt(text: bytes, config: TokenizerConfig) -> tuple[_Library, Mapping[int, AddedToken]]:
    """The tokenizer with the parts of its class and no added tokens, and those of the file."""
    assert config.tokenizer_class is not None
    data: dict[str, Any] = json.loads(text)
    filed = {token.pop("id"): AddedToken(**token) for token in data["added_tokens"]}
    data = config.tokenizer_class.rebuilt(data, config.data, config.names.get("unk_token"))
    return _Library.from_str(json.dumps(data)), filed
