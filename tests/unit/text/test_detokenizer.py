"""Text that comes in parts is the text that comes at once, whatever the decoder, and ends at the first stop string."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models
from tokenizers import Tokenizer as Library

from aphrodite.text.detokenizer import Detokenizer
from aphrodite.text.stops import StopFinder
from aphrodite.text.tokenizer import Tokenizer
from aphrodite.text.vocabulary import LibraryVocabulary
from tests.unit.text.kinds import KINDS, texts


def in_parts(detokenizer: Detokenizer, ids: Sequence[int]) -> list[str]:
    """What each token gives, then what finish gives."""
    return [*(detokenizer.append([token]) for token in ids), detokenizer.finish()]


def check_exact(tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    """Parts make the whole, and what was handed out at any time begins the text of whatever follows."""
    for skip in (True, False):
        detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
        parts = in_parts(detokenizer, ids)
        assert "".join(parts) == detokenizer.text == tokenizer.decode(ids, skip_special_tokens=skip), (ids, parts)
        assert detokenizer.num_tokens == len(ids) and detokenizer.stop_string is None
        shown = ""
        for count, part in enumerate(parts[:-1], start=1):
            shown += part
            assert tokenizer.decode(ids[:count], skip_special_tokens=skip).startswith(shown), (ids, count)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_text_are_the_text(kind: str, folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.find(folders[kind])
    assert tokenizer is not None
    for text in texts(2000, seed=1):
        check_exact(tokenizer, tokenizer.encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_any_tokens_are_their_text(kind: str, folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.find(folders[kind])
    assert tokenizer is not None
    draw = random.Random(2)
    for _ in range(1000):
        check_exact(tokenizer, [draw.randrange(430) for _ in range(draw.randrange(12))])  # some ids have no token


PIECES = [
    "a", "b", " ", "", "▁", "▁a", "a▁b", "##", "##a", "a##", "</w>", "a</w>", "</w>a", "<0x41>", "<0xC3>", "<0xA9>",
    "<0xE2>", "<0x82>", "<0xAC>", "<0xff>", "<0x+1>", "<0xg1>", "Ã", "©", "â", "Ĥ", "¬", "Ġ", "日", "<s>", ".", "n't",
    " .", "'", "do", "not", "ab", "aab", "xyx",
]  # fmt: skip
DECODERS: dict[str, Any] = {
    "none": None,
    "byte level": decoders.ByteLevel(),
    "word piece": decoders.WordPiece(),
    "word piece as it is": decoders.WordPiece(prefix="a", cleanup=False),
    "metaspace": decoders.Metaspace(),
    "metaspace first": decoders.Metaspace(prepend_scheme="first"),
    "metaspace never": decoders.Metaspace(prepend_scheme="never"),
    "bpe": decoders.BPEDecoder(),
    "byte fallback": decoders.ByteFallback(),
    "fuse": decoders.Fuse(),
    "strip": decoders.Strip("a", 2, 0),
    "replace": decoders.Replace("a", "bb"),
    "ctc": decoders.CTC(),
    "regex": decoders.Replace(Regex("a+"), "b"),
    "llama": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "nested": decoders.Sequence([decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]), decoders.Fuse()]),
    "bytes, then metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    "strips across": decoders.Sequence([decoders.Fuse(), decoders.Strip("a", 3, 0), decoders.Fuse()]),
    "replaces across": decoders.Sequence([decoders.Fuse(), decoders.Replace("aab", "#"), decoders.Replace("xyx", "")]),
    "overlaps": decoders.Sequence([decoders.ByteLevel(), decoders.Replace("aa", "a")]),
    "metaspace across": decoders.Sequence([decoders.Fuse(), decoders.Metaspace()]),
    "suffix, then word piece": decoders.Sequence([decoders.BPEDecoder(), decoders.WordPiece()]),
}


def tokenizer_with(decoder: Any) -> Tokenizer:
    """Pieces as tokens, one of them special, and a decoder."""
    library = Library(models.WordLevel({piece: place for place, piece in enumerate(PIECES)}, unk_token="a"))
    library.add_special_tokens([AddedToken("<s>", special=True)])
    if decoder is not None:
        library.decoder = decoder
    return Tokenizer(LibraryVocabulary(library))


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_of_the_library_is_followed_exactly(name: str) -> None:
    tokenizer = tokenizer_with(DECODERS[name])

    @settings(max_examples=150)
    @given(st.lists(st.integers(0, len(PIECES) + 1), max_size=12))
    def exact(ids: list[int]) -> None:
        for skip in (True, False):
            detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
            assert "".join(in_parts(detokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=skip)

    exact()


def test_only_decoders_in_which_all_may_change_wait_for_the_end() -> None:
    streams = {name: tokenizer_with(decoder).stream() for name, decoder in DECODERS.items()}
    early = {name: "".join(stream.push(1) for _ in range(8)) for name, stream in streams.items()}
    assert {name for name, text in early.items() if text == ""} == {"ctc", "regex"}


def test_bytes_of_an_unfinished_character_wait_for_the_rest() -> None:
    tokenizer = tokenizer_with(decoders.ByteLevel())
    euro = [PIECES.index(piece) for piece in "âĤ¬"]
    assert in_parts(Detokenizer(tokenizer), [*euro, 0]) == ["", "", "€", "a", ""]
    assert in_parts(Detokenizer(tokenizer), euro[:2]) == ["", "", "\ufffd"]
    assert in_parts(Detokenizer(tokenizer), [*euro[:2], 0]) == ["", "", "\ufffda", ""]


def test_a_run_of_byte_tokens_waits_for_its_end_since_one_bad_byte_spoils_it() -> None:
    tokenizer = tokenizer_with(decoders.ByteFallback())
    run = [PIECES.index(piece) for piece in ("<0xC3>", "<0xA9>", "<0xff>")]
    assert in_parts(Detokenizer(tokenizer), [*run[:2], 0]) == ["", "", "éa", ""]
    assert in_parts(Detokenizer(tokenizer), [*run, 0]) == ["", "", "", "\ufffd\ufffd\ufffda", ""]


def test_long_outputs_cost_the_same_per_token(folders: dict[str, Path]) -> None:
    """Counted, not timed: the library decodes nothing, and each token is looked up once."""
    tokenizer = Tokenizer.find(folders["llama2"])
    assert tokenizer is not None
    ids = tokenizer.encode("the engine schedules a step " * 200)
    looked_up = []
    stream = tokenizer.stream()
    find = stream._token_of  # type: ignore[attr-defined]
    stream._token_of = lambda token: looked_up.append(token) or find(token)  # type: ignore[attr-defined]
    text = "".join(stream.push(token) for token in ids) + stream.end()
    assert looked_up == ids and text == tokenizer.decode(ids)


# ---- stop strings ---------------------------------------------------------------------------------------------------


def first_stop(parts: Sequence[str], stops: Sequence[str], min_parts: int) -> tuple[int, int, str] | None:
    """Parts read, where it ends, and the stop that ends first behind min_parts, the longest of equals."""
    text = "".join(parts)
    ends = [len("".join(parts[:count])) for count in range(len(parts) + 1)]
    for end in range(1, len(text) + 1):
        count = next(place for place, at in enumerate(ends) if at >= end)
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found and count > min_parts:
            return count, end, max(found, key=len)
    return None


LETTERS = st.text("ab", min_size=1, max_size=5)


@settings(max_examples=500)
@given(st.lists(st.text("abc", max_size=4), max_size=12), st.lists(LETTERS, min_size=1, max_size=4), st.integers(0, 5))
def test_the_stop_string_that_ends_first_is_found_and_no_more_is_held_than_needed(
    parts: list[str], stops: list[str], min_parts: int
) -> None:
    finder = StopFinder(stops)
    expected = first_stop(parts, stops, min_parts)
    text = ""
    for count, part in enumerate(parts, start=1):
        found = finder.feed(part, counts=count > min_parts)
        if found is not None:
            assert expected == (count, len(text) + found[1], found[0])
            return
        text += part
        begins = [
            n for n in range(len(text) + 1) if any(s.startswith(text[len(text) - n :]) and n < len(s) for s in stops)
        ]
        assert finder.num_held == max(begins)
    assert expected is None


@pytest.fixture
def letters() -> Tokenizer:
    """Tokens that are their own text."""
    return tokenizer_with(decoders.Fuse())


def test_the_text_ends_at_the_stop_string(letters: Tokenizer) -> None:
    @settings(max_examples=400)
    @given(
        st.lists(st.sampled_from(["a", "b", "ab", "aab", "xyx", "", "<s>"]), max_size=12),
        st.lists(LETTERS, min_size=1, max_size=3),
        st.integers(0, 4),
        st.booleans(),
    )
    def ends(tokens: list[str], stops: list[str], min_tokens: int, include: bool) -> None:
        def make() -> Detokenizer:
            return Detokenizer(letters, stop=stops, include_stop=include, min_tokens=min_tokens)

        parts = ["" if token == "<s>" else token for token in tokens]
        expected = first_stop(parts, stops, min_tokens)
        detokenizer, at_once = make(), make()
        shown = "".join(in_parts(detokenizer, ids_of(*tokens)))
        assert shown == detokenizer.text == at_once.append(ids_of(*tokens)) + at_once.finish()
        assert at_once.num_tokens == detokenizer.num_tokens
        if expected is None:
            assert (shown, detokenizer.stop_string, detokenizer.num_tokens) == ("".join(parts), None, len(tokens))
        else:
            count, end, stop = expected
            assert (detokenizer.stop_string, detokenizer.num_tokens) == (stop, count)
            assert shown == "".join(parts)[: end if include else end - len(stop)]

    ends()


def ids_of(*tokens: str) -> list[int]:
    return [PIECES.index(token) for token in tokens]


def test_what_may_begin_a_stop_string_is_held_and_given_when_it_does_not(letters: Tokenizer) -> None:
    detokenizer = Detokenizer(letters, stop=["aab"])
    assert in_parts(detokenizer, ids_of("b", "a", "a", "a", " ", "a")) == ["b", "", "", "a", "aa ", "", "a"]


def test_a_token_that_ends_behind_the_stop_string_counts_and_its_rest_is_dropped(letters: Tokenizer) -> None:
    detokenizer = Detokenizer(letters, stop=["by"])
    assert in_parts(detokenizer, ids_of("a", "b", "xyx", "a")) == ["a", "", "bxyx", "a", ""]
    detokenizer = Detokenizer(letters, stop=["bx", "yx"])
    assert in_parts(detokenizer, ids_of("a", "b", "xyx", "a")) == ["a", "", "", "", ""]
    assert (detokenizer.stop_string, detokenizer.num_tokens, detokenizer.text) == ("bx", 3, "a")


def test_a_stop_string_within_min_tokens_is_text_and_one_that_ends_behind_them_counts(letters: Tokenizer) -> None:
    detokenizer = Detokenizer(letters, stop=["ab"], min_tokens=3)
    assert in_parts(detokenizer, ids_of("ab", "b", "a", "b", "a")) == ["ab", "b", "", "", "", ""]
    assert (detokenizer.stop_string, detokenizer.num_tokens) == ("ab", 4)


def test_a_stop_string_in_text_held_until_the_end_is_found_by_finish() -> None:
    tokenizer = tokenizer_with(decoders.ByteFallback())
    detokenizer = Detokenizer(tokenizer, stop=["é"])
    assert in_parts(detokenizer, ids_of("a", "<0xC3>", "<0xA9>")) == ["a", "", "", ""]
    assert detokenizer.stop_string == "é" and detokenizer.text == "a"


def test_special_tokens_are_part_of_the_text_only_when_shown(letters: Tokenizer) -> None:
    for skip, stopped in ((True, None), (False, "<s>")):
        detokenizer = Detokenizer(letters, skip_special_tokens=skip, stop=["<s>"])
        assert "".join(in_parts(detokenizer, ids_of("a", "<s>", "b"))) == ("ab" if skip else "a")
        assert detokenizer.stop_string == stopped
