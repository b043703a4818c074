"""From what a caller passes to checked requests."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from aphrodite.errors import ContextLengthError, UsageError
from aphrodite.sampling.shaping import shape
from aphrodite.text.tokenizer import Tokenizer
from aphrodite.types.model_card import ModelCard
from aphrodite.types.request import Request
from aphrodite.types.sampling_params import MAX_SEED, SamplingParams

_TEXT_BYTES_A_TOKEN = 1024  # a text longer than this times max_model_len is refused before it is tokenised


@dataclass(frozen=True)
class Prepared:
    """A prompt that was checked: its text, if it had one, and the requests that it takes, one each of its `n`
    continuations; one stands for `n` equal ones."""

    text: str | None
    requests: tuple[Request, ...]


class RequestMaker:
    """Checks prompts and parameters against a model and numbers the requests. Safe to call from several threads."""

    def __init__(self, card: ModelCard, tokenizer: Tokenizer | None) -> None:
        self._card = card
        self._tokenizer = tokenizer
        self._max_len = card.max_model_len
        self._numbers = itertools.count()

    def make_all(self, prompts: Any, sampling: Any, priority: Any = 0) -> list[Prepared]:
        """Each prompt of one or several. UsageError names the first that is wrong."""
        many = as_list(prompts)
        params = spread(sampling, len(many))
        priorities = spread_priority(priority, len(many))
        return [
            self.make(*one, f"prompts[{place}]") for place, one in enumerate(zip(many, params, priorities, strict=True))
        ]

    def make(
        self, prompt: Any, sampling: SamplingParams, priority: int, where: str, text: str | None = None
    ) -> Prepared:
        """One prompt; `where` names it in messages, `text` is what it was made of, where that is no text to encode."""
        prompt, salt = _opened(prompt, where)
        if isinstance(prompt, str):
            text = prompt
        ids: list[Any] = self._encode(prompt, where) if isinstance(prompt, str) else _ids_of(prompt, where)
        if not ids:
            raise UsageError(f"{where} is empty: a prompt needs at least one token", subject=where)
        checked = [self._token(token, f"{where}[{index}]") for index, token in enumerate(ids)]
        if len(ids) >= self._max_len:
            raise ContextLengthError(
                f"{where} has {len(ids)} tokens; max_model_len {self._max_len} leaves room for prompts of at most "
                f"{self._max_len - 1}: shorten it, or raise max_model_len",
                subject=where,
            )
        sampling = sampling.over(self._card.defaults)
        if sampling.stop and self._tokenizer is None:
            raise UsageError(
                f"stop must be absent for a model without tokenizer.json, got {list(sampling.stop)!r}: "
                f"{self._card.folder} has none, use stop_token_ids",
                subject="stop",
            )
        shaping = shape(
            sampling,
            num_prompt=len(ids),
            end_ids=self._card.end_ids,
            vocab_size=self._card.vocab_size,
            encode=self._tokenizer.encode_bare if self._tokenizer else None,
        )
        number = next(self._numbers)
        seed = sampling.seed if sampling.seed is not None and sampling.seed >= 0 else _mix(self._card.seed, number)
        total = self._max_len if sampling.max_tokens is None else min(len(ids) + sampling.max_tokens, self._max_len)
        request = Request(
            str(number),
            tuple(checked),
            sampling,
            seed,
            self._card.end_ids,
            total,
            shaping,
            priority=priority,
            cache_salt=salt,
        )
        return Prepared(text, tuple(children(request)))

    def check_length(self, text: str, where: str) -> None:
        """ContextLengthError for a text that is too long whatever its tokens are: to cut it into them takes a second a
        megabyte."""
        if len(text) > _TEXT_BYTES_A_TOKEN * self._max_len:
            raise ContextLengthError(
                f"{where} has {len(text)} characters, which cannot fit into max_model_len {self._max_len} tokens",
                subject=where,
            )

    def _token(self, token: Any, where: str) -> int:
        """A token id of the vocabulary; any integer type will do, bool is none."""
        if type(token) is int and 0 <= token < self._card.vocab_size:
            return token
        if not isinstance(token, bool) and isinstance(token, Integral) and 0 <= int(token) < self._card.vocab_size:
            return int(token)
        raise UsageError(
            f"{where}: a token id must be an integer in 0..{self._card.vocab_size - 1}, got {token!r}", subject=where
        )

    def _encode(self, text: str, where: str) -> list[int]:
        if self._tokenizer is None:
            raise UsageError(
                f"{where} is text, and {self._card.folder} has no tokenizer.json: pass token ids", subject=where
            )
        self.check_length(text, where)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{where} holds a lone surrogate, which is no text", subject=where) from None
        return self._tokenizer.encode(text)


def children(request: Request) -> list[Request]:
    """The sequences that a request takes: `n`, each an ordinary one with a lane of its own in the random counter.

    At temperature 0 they would all be the same: one is computed. The first alone reports on the prompt.
    """
    sampling = request.sampling
    others = sampling.replace(prompt_logprobs=None) if sampling.prompt_logprobs is not None else sampling
    count = sampling.n if sampling.temperature > 0 else 1
    return [
        request,
        *(
            replace(request, request_id=f"{request.request_id}.{child}", sampling=others, child=child)
            for child in range(1, count)
        ),
    ]


def as_list(prompts: Any) -> list[Any]:
    """One prompt or several, as several."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if isinstance(prompts, Sequence):
        if len(prompts) and all(isinstance(item, Integral) for item in prompts):
            return [prompts]
        return list(prompts)
    raise UsageError(f"prompts must be text, token ids or a list of these, got {prompts!r}", subject="prompts")


def _opened(prompt: Any, where: str) -> tuple[Any, str | None]:
    """A prompt that may be a mapping, as what it holds and its salt."""
    if not isinstance(prompt, Mapping):
        return prompt, None
    if set(prompt) - {"cache_salt"} not in ({"prompt"}, {"prompt_token_ids"}):
        raise UsageError(
            f"{where} must have the key prompt_token_ids or prompt, and may have cache_salt, got "
            f"{sorted(map(str, prompt))}",
            subject=where,
        )
    salt = prompt.get("cache_salt")
    if salt is not None and (not isinstance(salt, str) or not salt or not salt.isprintable()):
        raise UsageError(f"{where}: cache_salt must be printable text, got {salt!r}", subject="cache_salt")
    if "prompt" not in prompt:
        return _ids_of(prompt["prompt_token_ids"], where), salt
    if not isinstance(prompt["prompt"], str):
        raise UsageError(f"{where}: prompt must be text, got {prompt['prompt']!r}", subject=where)
    return prompt["prompt"], salt


def _ids_of(prompt: Any, where: str) -> list[Any]:
    if isinstance(prompt, (str, bytes, bytearray)) or not isinstance(prompt, Sequence):
        raise UsageError(f"{where} must be text or a list of token ids, got {prompt!r}", subject=where)
    return list(prompt)


def spread(sampling: Any, count: int) -> list[SamplingParams]:
    """Parameters for each of so many prompts, from one for all or one for each. UsageError if they are others."""
    one = SamplingParams() if sampling is None else sampling
    params = list(one) if isinstance(one, (list, tuple)) else [one] * count
    if len(params) != count:
        raise UsageError(
            f"sampling_params has {len(params)} entries for {count} prompts: pass one, or one for each",
            subject="sampling_params",
        )
    for one in params:
        if not isinstance(one, SamplingParams):
            raise UsageError(f"sampling_params must be SamplingParams, got {one!r}", subject="sampling_params")
    return params


def spread_priority(priority: Any, count: int) -> list[int]:
    """The same for priorities."""
    many = list(priority) if isinstance(priority, (list, tuple)) else [priority] * count
    if len(many) != count:
        raise UsageError(
            f"priority has {len(many)} entries for {count} prompts: pass one, or one for each", subject="priority"
        )
    for one in many:
        if type(one) is not int:
            raise UsageError(f"priority must be an integer, got {one!r}", subject="priority")
    return many


def _mix(seed: int, number: int) -> int:
    """A seed for a request that brings none: SplitMix64 of the engine's seed and the request's number.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    mask = 2**64 - 1
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) & MAX_SEED
