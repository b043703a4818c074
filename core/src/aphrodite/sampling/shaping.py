"""From a request's parameters and its model to what the device keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from aphrodite.errors import UsageError
from aphrodite.types.sampling_params import SamplingParams
from aphrodite.types.shaping import MAX_BAD_TOKENS, MAX_BIASES, MAX_STOPS, PLAIN, Shaping

Encode = Callable[[str], Sequence[int]]  # without special tokens


def shape(
    sampling: SamplingParams, *, num_prompt: int, end_ids: frozenset[int], vocab_size: int, encode: Encode | None
) -> Shaping:
    """The Shaping of a request; PLAIN if its parameters change no logit.

    end_ids  the model's own end tokens
    encode   text to ids; None where there is no tokenizer
    Raises UsageError, by the parameter's name, for ids outside the vocabulary, lists over their bounds, bad words that
    cannot be tokenised, and parameters that together leave no token to draw.
    """
    allowed = sampling.allowed_token_ids
    for name, ids in (
        ("stop_token_ids", sampling.stop_token_ids),
        ("allowed_token_ids", allowed or ()),
        ("logit_bias", [token for token, _ in sampling.logit_bias]),
    ):
        _in_vocabulary(name, ids, vocab_size)
    stops: set[int] = set()
    if sampling.min_tokens:
        stops = {token for token in (*sampling.stop_token_ids, *end_ids) if token < vocab_size}
    words = _bad_words(sampling.bad_words, vocab_size, encode)
    _within("min_tokens", "end tokens and stop_token_ids to hold back", len(stops), MAX_STOPS)
    _within("logit_bias", "entries", len(sampling.logit_bias), MAX_BIASES)
    _something_left(allowed, stops, words, vocab_size)
    random = sampling.temperature > 0
    shaping = Shaping(
        top_k=max(sampling.top_k, 0) if random else 0,
        top_p=sampling.top_p if random else 1.0,
        min_p=sampling.min_p if random else 0.0,
        repetition=sampling.repetition_penalty,
        frequency=sampling.frequency_penalty,
        presence=sampling.presence_penalty,
        min_len=num_prompt + sampling.min_tokens if stops else 0,
        stops=tuple(sorted(stops)),
        biases=sampling.logit_bias,
        allowed=None if allowed is None else tuple(sorted(set(allowed))),
        bad_words=words,
    )
    return PLAIN if shaping == PLAIN else shaping.of_prompt(num_prompt)


def _in_vocabulary(name: str, ids: Iterable[int], vocab_size: int) -> None:
    for token in ids:
        if token >= vocab_size:
            raise UsageError(f"{name} must be in 0..{vocab_size - 1}, got {token}", subject=name)


def _within(name: str, what: str, count: int, most: int) -> None:
    if count > most:
        raise UsageError(f"{name} must have at most {most} {what}, got {count}", subject=name)


def _bad_words(texts: Sequence[str], vocab_size: int, encode: Encode | None) -> tuple[tuple[int, ...], ...]:
    """Each text as the tokens it may appear as: at the start of a word, and within one."""
    words: dict[tuple[int, ...], None] = {}
    if not texts:
        return ()
    if encode is None:
        raise UsageError(
            f"bad_words must be absent for a model without tokenizer.json, got {list(texts)}: use logit_bias",
            subject="bad_words",
        )
    count = 0
    seen: set[str] = set()
    for place, text in enumerate(texts):
        if text in seen:
            continue
        seen.add(text)
        where = f"bad_words[{place}]"
        bare = text.lstrip()
        try:
            forms = [tuple(encode(form)) for form in ((bare, f" {bare}") if bare else (text,))]
        except UnicodeEncodeError:
            raise UsageError(f"{where} holds a lone surrogate, which is no text", subject="bad_words") from None
        if not all(forms):
            raise UsageError(f"{where} must have at least one token, got {text!r}, which has none", subject="bad_words")
        for form in forms:
            if max(form) < vocab_size:  # others cannot be drawn
                count += 0 if form in words else len(form)
                words[form] = None
        if count > MAX_BAD_TOKENS:  # no more of them is tokenised than that takes
            raise UsageError(
                f"bad_words must have at most {MAX_BAD_TOKENS} tokens, with and without a space before each, got more",
                subject="bad_words",
            )
    return tuple(words)


def _something_left(
    allowed: Sequence[int] | None, stops: set[int], words: Sequence[tuple[int, ...]], vocab_size: int
) -> None:
    """UsageError if no token could ever be drawn."""
    banned = stops | {word[0] for word in words if len(word) == 1}
    if allowed is not None and set(allowed) <= banned:
        raise UsageError(
            "allowed_token_ids must leave a token to draw, and all of them are bad_words or held back by min_tokens",
            subject="allowed_token_ids",
        )
    if len(banned) >= vocab_size:
        raise UsageError("bad_words and min_tokens leave no token to draw", subject="bad_words")
