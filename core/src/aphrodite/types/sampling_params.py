"""The declarative table of sampling parameters: type, default, legal range and meaning of each, in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any

from aphrodite.errors import UsageError

MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Rule:
    """What a parameter may be: `legal` in words, `holds` as a test of a value that already has the right type."""

    kind: type
    legal: str
    holds: Callable[[Any], bool]
    optional: bool = False


def _param(default: Any, doc: str, rule: Rule) -> Any:
    meta = {"doc": doc, "rule": rule}
    if isinstance(default, tuple):
        return field(default_factory=lambda: default, metadata=meta)
    return field(default=default, metadata=meta)


def _integer(low: int, high: int, *, optional: bool = False) -> Rule:
    return Rule(int, f"in {low}..{high}", lambda value: low <= value <= high, optional)


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn and when a request ends. UsageError names a wrong parameter, its value and what is legal."""

    temperature: float = _param(
        1.0,
        "Divides the logits before the draw; 0 takes the likeliest token.",
        Rule(float, ">= 0 and finite", lambda value: value >= 0 and math.isfinite(value)),
    )
    seed: int | None = _param(
        None,
        "Makes draws repeatable; absent or -1: drawn from the engine's seed and the request's number.",
        _integer(-1, MAX_SEED, optional=True),
    )
    max_tokens: int = _param(16, "Most tokens to generate.", _integer(1, 2**31 - 1))
    stop_token_ids: tuple[int, ...] = _param(
        (),
        "Token ids that end the request, beside the model's own.",
        Rule(tuple, "a list of token ids >= 0", lambda value: all(type(t) is int and t >= 0 for t in value)),
    )
    ignore_eos: bool = _param(
        False, "Go on after the model's end token.", Rule(bool, "true or false", lambda value: True)
    )
    logprobs: int | None = _param(
        None,
        "Log-probabilities of that many likeliest tokens beside the chosen one; 0 is the chosen one alone.",
        _integer(0, MAX_LOGPROBS, optional=True),
    )
    prompt_logprobs: int | None = _param(
        None, "The same for every prompt token but the first.", _integer(0, MAX_LOGPROBS, optional=True)
    )
    skip_special_tokens: bool = _param(
        True, "Leave special tokens out of the text.", Rule(bool, "true or false", lambda value: True)
    )

    def __post_init__(self) -> None:
        for item in parameters():
            value = _checked(item.name, getattr(self, item.name), item.metadata["rule"])
            object.__setattr__(self, item.name, value)  # normalised once, here, before anyone sees it


def parameters() -> tuple[Field[Any], ...]:
    """The table: a dataclass field each, metadata doc and rule."""
    return fields(SamplingParams)


def _checked(name: str, value: Any, rule: Rule) -> Any:
    """The value in its own type. int passes for float, a list for a tuple; bool passes for nothing but bool."""
    if value is None and rule.optional:
        return None
    if value is None and rule.kind is tuple:
        return ()
    given = value
    if rule.kind is float and type(value) is int:
        value = float(value)
    if rule.kind is tuple and isinstance(value, list):
        value = tuple(value)
    if type(value) is not rule.kind or not rule.holds(value):
        legal = rule.legal + (" or None" if rule.optional else "")
        legal = legal if rule.kind in (bool, tuple) else f"{'a number' if rule.kind is float else 'an integer'} {legal}"
        raise UsageError(f"{name} must be {legal}, got {given!r}", subject=name)
    return value
