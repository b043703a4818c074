"""The tokenizer of a checkpoint folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aphrodite.errors import AphroditeError, ModelError, UsageError, told
from aphrodite.text.guarded import GuardedEncode
from aphrodite.text.slow import read_slow
from aphrodite.text.stream import TokenStream
from aphrodite.text.tokenizer_config import TOKENIZER_FILE, TokenizerConfig, is_there
from aphrodite.text.vocabulary import Vocabulary, read_vocabulary


class Tokenizer:
    """Encodes prompts and decodes ids, as Transformers' AutoTokenizer does. Safe to call from several threads.

    A tokenizer.json is read by the tokenizers library, with what stands beside it; the files of older tokenizers are
    left to Transformers, which is imported for them alone.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._special = frozenset(name for name, special in vocabulary.added.items() if special)
        self._guarded: dict[tuple[str, ...], GuardedEncode] = {}
        self._control: dict[str, tuple[str, ...]] = {}  # by template

    @classmethod
    def find(cls, folder: Path) -> Tokenizer | None:
        """The folder's; None if it has none. ModelError if it cannot be read, or only by Transformers and that is
        not installed."""
        path = folder / TOKENIZER_FILE
        if is_there(path):
            return cls(read_vocabulary(path, TokenizerConfig.read(folder)))
        slow = read_slow(folder)
        return None if slow is None else cls(slow)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens that the tokenizer adds. UsageError if it fails on it."""
        with _named("the text", UsageError):
            return self._vocabulary.encode(text, bare=False)

    def encode_bare(self, text: str) -> list[int]:
        """Token ids of a piece of text, without special tokens. UnicodeEncodeError if it is no text, UsageError if the
        tokenizer fails on it."""
        text.encode()
        with _named("the text", UsageError):
            return self._vocabulary.encode(text, bare=True)

    def control_tokens(self, text: str) -> tuple[str, ...]:
        """Special tokens, and the other added tokens that stand in a template's text; none that is white space."""
        if text not in self._control:
            names = (name for name, special in self._vocabulary.added.items() if special or name in text)
            self._control[text] = tuple(name for name in names if name and not name.isspace())
        return self._control[text]

    def encode_guarded(self, text: str, found: Sequence[tuple[int, int, bool]], control: tuple[str, ...]) -> list[int]:
        """Token ids of a text in which each control token found (start, end) is itself, or is text.

        The first call with these control tokens makes a copy of the tokenizer. UsageError if it can only be itself, or
        the tokenizer fails on the text.
        """
        if control not in self._guarded:
            self._guarded[control] = self._vocabulary.guarded(control)
        with _named("the text", UsageError):
            return self._guarded[control](text, found)

    @property
    def special_tokens(self) -> frozenset[str]:
        """Tokens that text is shown without."""
        return self._special

    @property
    def added_tokens(self) -> frozenset[str]:
        """Tokens that are found in a text before it is cut into others, the special ones among them."""
        return frozenset(self._vocabulary.added)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids. ModelError if the tokenizer fails on them."""
        with _named("the tokens", ModelError):
            return self._vocabulary.decode(ids, skip_special_tokens=skip_special_tokens)

    def stream(self, *, skip_special_tokens: bool = True, kept: Collection[str] = ()) -> TokenStream:
        """Decodes one sequence token by token, to the same text as `decode` does of all of it.

        kept  special tokens that are not skipped: the markers of what a model writes beside its text
        """
        return self._vocabulary.stream(self._special.difference(kept) if skip_special_tokens else frozenset())

    def token(self, token_id: int) -> str | None:
        """The text of one token alone."""
        return self.decode([token_id], skip_special_tokens=False)


@contextmanager
def _named(what: str, kind: type[AphroditeError]) -> Iterator[None]:
    """A tokenizer without a token for what is unknown, or with a pattern that takes too long, fails on some texts only.
    The library raises bare Exception, and what Rust calls a panic, which is none."""
    try:
        yield
    except (AphroditeError, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        raise kind(f"this model's tokenizer fails on {what}: {told(error)}", subject="prompt") from None
