"""The table of sampling parameters: what is refused and how, what was given, and what the device will be told."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import Any

import pytest

from aphrodite import SamplingParams
from aphrodite.errors import UsageError
from aphrodite.sampling.shaping import shape
from aphrodite.types.sampling_params import parameters
from aphrodite.types.shaping import MAX_BAD_TOKENS, MAX_BIASES, MAX_STOPS, PLAIN, Shaping

BAD: dict[str, tuple[str, list[Any]]] = {
    "n": ("an integer in 1..64", [0, 65, -1, 1.0, True, "2", None]),
    "temperature": ("a number >= 0 and finite", [-0.1, math.nan, math.inf, "1", True, None, 10**400]),
    "top_k": ("an integer in -1..2147483647", [-2, 2**31, 1.0, True, "5", None]),
    "top_p": ("a number in (0, 1]", [0, 0.0, 1.01, -0.5, math.nan, "1", True, None]),
    "min_p": ("a number in [0, 1]", [-0.01, 1.5, math.nan, True, None]),
    "repetition_penalty": ("a number > 0 and finite", [0, -1, math.nan, math.inf, True, None]),
    "frequency_penalty": ("a number in [-2, 2]", [-2.1, 2.5, math.nan, True, None]),
    "presence_penalty": ("a number in [-2, 2]", [-2.1, 2.5, math.nan, "0", None]),
    "logit_bias": (
        "a mapping of token ids >= 0 to numbers",
        [{-1: 1.0}, {1: math.nan}, {1: "2"}, {1: True}, {"1": 2.0}, {1.0: 2}, {True: 1}, [(1, 2, 3)], [(1, 1), (1, 2)],
         [1], 3, "x"],
    ),
    "allowed_token_ids": (
        "a list of at least one token id >= 0 or None",
        [[], (), [-1], [1.0], [True], ["a"], 3, "12"],
    ),
    "bad_words": ("a list of texts that are not empty", [[""], ["a", ""], [1], "word", [None], [b"x"]]),
    "stop": (
        "a text, or a list of at most 16 texts, of 1 to 256 bytes each",
        ["", [""], ["a", ""], 1, b"x", [1], [None], {"a": 1}, "\ud800", "x" * 257, ["\u00e9" * 129], ["a"] * 17],
    ),
    "include_stop_str_in_output": ("true or false", [0, 1, "yes", None]),
    "max_tokens": ("an integer in 1..2147483647 or None", [0, -1, 2**31, 1.0, True]),
    "min_tokens": ("an integer in 0..2147483647", [-1, 2**31, 1.0, True, None]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, all_) in BAD.items() for value in all_])
def test_what_cannot_be_is_refused_by_name_value_and_legal_range(name: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        SamplingParams(**{name: value})
    said, (head, tail) = repr(value), (f"{name} must be {BAD[name][0]}, got ", "...")
    assert str(caught.value) == head + (said if len(said) <= 60 else said[:57] + tail)
    assert caught.value.subject == name


@pytest.mark.parametrize(
    "good",
    [
        {"n": 64}, {"top_k": -1}, {"top_k": 0}, {"top_p": 1}, {"top_p": 1e-9}, {"min_p": 1},
        {"repetition_penalty": 1e-3}, {"frequency_penalty": -2}, {"presence_penalty": 2}, {"max_tokens": None},
        {"allowed_token_ids": None}, {"stop": ("\u00e9" * 128,)}, {"stop": tuple("abcdefghijklmnop")},
        {"min_tokens": 16}, {"min_tokens": 5, "max_tokens": 5}, {"min_tokens": 999, "max_tokens": None},
    ],
    ids=str,
)  # fmt: skip
def test_the_ends_of_the_legal_ranges_are_legal(good: dict[str, Any]) -> None:
    params = SamplingParams(**good)
    assert all(getattr(params, name) == value for name, value in good.items())


def test_no_more_bad_words_are_tokenised_than_there_may_be() -> None:
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return [ord(letter) % 128 for letter in text]

    params = SamplingParams(bad_words=[f"{chr(at)}{at}" for at in range(1000, 50000)])
    with pytest.raises(UsageError, match="bad_words must have at most 1024 tokens"):
        shape(params, num_prompt=1, end_ids=frozenset(), vocab_size=128, encode=encode)
    assert len(asked) < 2000
    asked.clear()
    shape(SamplingParams(bad_words=["a"] * 100_000), num_prompt=1, end_ids=frozenset(), vocab_size=128, encode=encode)
    assert asked == ["a", " a"], "one that stands there twice is looked at once"


def test_more_tokens_wanted_than_allowed_is_refused() -> None:
    with pytest.raises(UsageError, match=r"min_tokens must be in 0\.\.max_tokens, which is 4, got 5"):
        SamplingParams(min_tokens=5, max_tokens=4)
    with pytest.raises(UsageError, match="which is 16, got 20"):
        SamplingParams(min_tokens=20).over({})
    assert SamplingParams(min_tokens=20).over({"max_tokens": 50}).max_tokens == 50


def test_biases_are_kept_as_pairs_within_their_bounds() -> None:
    params = SamplingParams(logit_bias={5: 1, 7: -1000, 9: math.inf})
    assert params.logit_bias == ((5, 1.0), (7, -100.0), (9, 100.0))
    assert SamplingParams(logit_bias=params.logit_bias) == params
    assert isinstance(hash(params), int)


def test_one_stop_text_is_a_list_of_one_and_none_is_none() -> None:
    assert SamplingParams(stop="ab").stop == SamplingParams(stop=["ab"]).stop == ("ab",)
    assert SamplingParams(stop=None).stop == SamplingParams().stop == ()


def test_what_was_given_is_known_and_survives_copies() -> None:
    params = SamplingParams(temperature=1.0, stop_token_ids=[3])
    assert params.given == {"temperature", "stop_token_ids"}
    assert SamplingParams().given == frozenset()
    assert SamplingParams() != SamplingParams(temperature=1.0), "one takes the model's default, the other does not"
    changed = params.replace(seed=4)
    assert changed.given == {*params.given, "seed"} and changed.stop_token_ids == (3,)
    assert dataclasses.replace(params, seed=4).given == {item.name for item in parameters()}
    for copied in (copy.deepcopy(params), pickle.loads(pickle.dumps(params))):  # noqa: S301
        assert copied == params and copied.given == params.given


def test_defaults_go_only_where_a_parameter_was_left_out() -> None:
    defaults = {"temperature": 0.6, "top_p": 0.9, "max_tokens": 200}
    full = SamplingParams(temperature=1.0, min_p=0.1).over(defaults)
    assert (full.temperature, full.top_p, full.min_p, full.max_tokens, full.top_k) == (1.0, 0.9, 0.1, 200, 0)
    assert SamplingParams(max_tokens=None).over(defaults).max_tokens is None, "None is a value of its own here"


# ---- what the device is told ----------------------------------------------------------------------------------------


def letters(text: str) -> list[int]:
    """A tokenizer of one token a character."""
    text.encode()
    return [ord(letter) for letter in text]


def shaped(*, vocab_size: int = 128, encode: Any = letters, **params: Any) -> Shaping:
    sampling = SamplingParams(**params)
    return shape(sampling, num_prompt=4, end_ids=frozenset({2}), vocab_size=vocab_size, encode=encode)


def test_parameters_that_change_nothing_are_plain() -> None:
    assert shaped() == PLAIN and not (PLAIN.truncates or PLAIN.edits or PLAIN.penalises)
    assert shaped(top_k=-1, top_p=1, min_p=0, repetition_penalty=1, logit_bias={}, bad_words=[], seed=3) is PLAIN
    assert shaped(temperature=0, top_k=5, top_p=0.5, min_p=0.5) is PLAIN, "the likeliest token is never cut off"


def test_each_parameter_asks_for_its_own_stage() -> None:
    for params, stages in (
        ({"top_k": 1}, "t"), ({"top_p": 0.5}, "t"), ({"min_p": 0.1}, "t"), ({"repetition_penalty": 0.9}, "p"),
        ({"frequency_penalty": 0.1}, "p"), ({"presence_penalty": -1}, "p"), ({"logit_bias": {1: 1}}, "e"),
        ({"allowed_token_ids": [1]}, "e"), ({"bad_words": ["x"]}, "e"), ({"min_tokens": 1}, "e"),
    ):  # fmt: skip
        made = shaped(**params)
        assert (made.truncates, made.edits, made.penalises) == tuple(stage in stages for stage in "tep")
        assert made.num_prompt == 4


def test_bad_words_are_forbidden_with_and_without_a_space_before_them() -> None:
    assert shaped(bad_words=["ab", " ab", "  ab"]).bad_words == ((97, 98), (32, 97, 98))
    assert shaped(bad_words=["  "]).bad_words == ((32, 32),)
    assert shaped(bad_words=["a\u00e4"]) is PLAIN, "what is not in the vocabulary cannot be drawn"


def test_min_tokens_holds_back_the_end_tokens_and_the_stop_tokens() -> None:
    made = shaped(min_tokens=3, stop_token_ids=[9, 5], ignore_eos=True)
    assert made.stops == (2, 5, 9) and made.min_len == 7


@pytest.mark.parametrize(
    ("params", "name", "message"),
    [
        ({"stop_token_ids": [128]}, "stop_token_ids", "must be in 0..127, got 128"),
        ({"allowed_token_ids": [1, 500]}, "allowed_token_ids", "must be in 0..127, got 500"),
        ({"logit_bias": {128: 1}}, "logit_bias", "must be in 0..127, got 128"),
        (
            {"min_tokens": 1, "stop_token_ids": list(range(3, 3 + MAX_STOPS)), "vocab_size": 500},
            "min_tokens",
            "must have at most 128 end tokens and stop_token_ids to hold back, got 129",
        ),
        (
            {"logit_bias": dict.fromkeys(range(MAX_BIASES + 1), 1), "vocab_size": 5000},
            "logit_bias",
            "must have at most 1024 entries, got 1025",
        ),
        ({"bad_words": ["x" * (MAX_BAD_TOKENS // 2)]}, "bad_words", "at most 1024 tokens, with and without a space"),
        ({"bad_words": ["x"], "encode": None}, "bad_words", "must be absent for a model without tokenizer.json"),
        ({"bad_words": ["ok", "\ud800"]}, "bad_words", "bad_words[1] holds a lone surrogate"),
        ({"bad_words": ["a"], "encode": lambda text: []}, "bad_words", "must have at least one token, got 'a'"),
        ({"bad_words": ["a"], "allowed_token_ids": [97, 97]}, "allowed_token_ids", "must leave a token to draw"),
        ({"min_tokens": 1, "allowed_token_ids": [2]}, "allowed_token_ids", "must leave a token to draw"),
        ({"min_tokens": 1, "stop_token_ids": [0, 1], "vocab_size": 3}, "bad_words", "leave no token to draw"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(params: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        shaped(**params)
    assert caught.value.subject == name
    assert name in str(caught.value) and message in str(caught.value)
