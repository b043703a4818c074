"""Tokenizers of folders without tokenizer.json: SentencePiece models, vocabularies and merges, read by Transformers.

Nearly all of them Transformers turns into a tokenizer of the tokenizers library; then that is taken. The others are
Python, and are followed as they are: their text comes at the end, since nothing is known of how they decode.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as _Library

from aphrodite.errors import ModelError, UsageError
from aphrodite.text.guarded import GuardedEncode
from aphrodite.text.stream import TokenStream, WholeStream
from aphrodite.text.tokenizer_config import TokenizerConfig
from aphrodite.text.vocabulary import LibraryVocabulary, Vocabulary, tidies

_FILES = ("*.model", "*.spm", "*.tiktoken", "tekken.json", "vocab.json", "vocab.txt", "bpe.codes")
_SENTENCEPIECE = (".model", ".spm")
_MAX_REASON = 300
_NEEDS = 'pip install "aphrodite-core[hf]"'


def read_slow(folder: Path) -> Vocabulary | None:
    """What Transformers makes of a folder that has no tokenizer.json; None if it has no other vocabulary either.

    ModelError if Transformers, or what it needs for such files, is not installed, or if it cannot read them.
    """
    files = sorted(path.name for pattern in _FILES for path in folder.glob(pattern))
    if not files:
        if own := _own_code(folder):
            raise ModelError(f"{folder} has no tokenizer.json, and {own}", subject=str(folder))
        return None
    what = f"{folder} has {files[0]} and no tokenizer.json"
    modules = ["transformers", *(("sentencepiece", "google.protobuf") if files[0].endswith(_SENTENCEPIECE) else ())]
    missing = [name for name in modules if not _is_installed(name)]
    if missing:
        raise ModelError(f"{what}: reading it needs {' and '.join(missing)} ({_NEEDS})", subject=str(folder))
    transformers = importlib.import_module("transformers")
    try:
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # whatever a class of Transformers raises
        reason = _own_code(folder) or f"{type(error).__name__}: {' '.join(str(error).split())[:_MAX_REASON]}"
        raise ModelError(f"{what}, and Transformers cannot read it: {reason}", subject=str(folder)) from None
    if not tokenizer.is_fast:
        return SlowVocabulary(tokenizer)
    library = _Library.from_str(tokenizer.backend_tokenizer.to_str())
    library.encode_special_tokens = bool(tokenizer.split_special_tokens)
    return LibraryVocabulary(library, cleans_up=tidies(library, tokenizer.init_kwargs))


def _own_code(folder: Path) -> str:
    """That tokenizer_config.json asks for code of the folder's, if it does."""
    listed = TokenizerConfig.read(folder).data.get("auto_map")
    if listed is None:
        return ""
    shown = str(listed.get("AutoTokenizer") if isinstance(listed, Mapping) else listed)[:_MAX_REASON]
    return (
        f"{folder / 'tokenizer_config.json'} asks for code of its own (auto_map: {shown!r}), which is never run: there "
        "is no trust_remote_code here"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Transformers logs to stderr; what matters here it raises."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a module of a package that is absent
        return False


class SlowVocabulary:
    """A tokenizer of Transformers that is Python."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids = frozenset(tokenizer.get_vocab().values())
        special = {*tokenizer.all_special_tokens}
        added = tokenizer.added_tokens_decoder.values()
        self.added: Mapping[str, bool] = {str(token): token.special or str(token) in special for token in added}

    def encode(self, text: str, *, bare: bool) -> list[int]:
        """Token ids. UsageError if it has none for a part of the text."""
        return self._encode(text, add_special_tokens=not bare)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of ids; those that name no token have none."""
        known = [token for token in ids if token in self._ids]
        text: str = self._tokenizer.decode(known, skip_special_tokens=skip_special_tokens)
        return text

    def stream(self, skipped: frozenset[str]) -> TokenStream:
        """All at the end."""
        return WholeStream(self._token, skipped, partial(self.decode, skip_special_tokens=False))

    def _token(self, token_id: int) -> str | None:
        return str(self._tokenizer.convert_ids_to_tokens(token_id)) if token_id in self._ids else None

    def guarded(self, control: Sequence[str]) -> GuardedEncode:
        """Between control tokens, all is text: so it is cut there, and its parts are encoded with no token in them."""

        def encode(text: str, found: Sequence[tuple[int, int, bool]]) -> list[int]:
            ids: list[int] = []
            at = 0
            for start, end, _ in (one for one in found if not one[2]):
                ids += [*plain(text[at:start]), self._tokenizer.convert_tokens_to_ids(text[start:end])]
                at = end
            return ids + plain(text[at:])

        def plain(text: str) -> list[int]:
            return self._encode(text, add_special_tokens=False, split_special_tokens=True) if text else []

        return encode

    def _encode(self, text: str, **options: bool) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text, verbose=False, **options)
        except (TypeError, ValueError):  # on its way from a token that has no id
            raise UsageError(
                f"this tokenizer ({type(self._tokenizer).__name__}) has no token for a part of the text, and none for"
                " what is unknown",
                subject="prompt",
            ) from None
        return ids
