"""The declarative table of sampling parameters: type, default, legal range and meaning of each, in one place."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Final

from aphrodite.errors import UsageError
from aphrodite.types.shown import shown

MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1
MAX_N = 64
MAX_BIAS = 100.0
MAX_STOP_STRINGS = 16
MAX_STOP_BYTES = 256
_MAX_INT = 2**31 - 1


class Unset(enum.Enum):
    """What a parameter that the caller left out is, until `SamplingParams` puts its default there."""

    UNSET = "left out"


UNSET: Final = Unset.UNSET


class Items(enum.Enum):
    """What a parameter that is a list holds: how flags and schemas spell it."""

    IDS = "token ids"
    TEXTS = "texts"
    BIASES = "pairs of token id and bias"


@dataclass(frozen=True)
class Rule:
    """What a parameter may be: `legal` in words, `holds` as a test of a value that already has the right type.

    kind      int, float, bool, or tuple with the kind of its `items`
    optional  whether None is a value of its own
    bare      whether one item may stand for a list of one
    """

    kind: type
    legal: str
    holds: Callable[[Any], bool]
    optional: bool = False
    items: Items | None = None
    bare: bool = False


def _param(default: Any, doc: str, rule: Rule) -> Any:
    return field(default=UNSET, metadata={"doc": doc, "rule": rule, "default": default})


def _integer(low: int, high: int, *, optional: bool = False) -> Rule:
    return Rule(int, f"in {low}..{high}", lambda value: low <= value <= high, optional)


def _ids(legal: str, *, low: int = 0, optional: bool = False) -> Rule:
    def holds(value: tuple[Any, ...]) -> bool:
        return len(value) >= low and all(type(token) is int and token >= 0 for token in value)

    return Rule(tuple, legal, holds, optional, Items.IDS)


def _is_bias(item: Any) -> bool:
    if not isinstance(item, tuple) or len(item) != 2:
        return False
    token, bias = item
    return type(token) is int and token >= 0 and type(bias) in (int, float) and not math.isnan(bias)


def _is_stop(item: Any) -> bool:
    if not isinstance(item, str):
        return False
    try:
        return 1 <= len(item.encode()) <= MAX_STOP_BYTES
    except UnicodeEncodeError:  # a lone surrogate: no text, and no output will ever hold it
        return False


_SWITCH = Rule(bool, "true or false", lambda value: True)
_PENALTY = Rule(float, "in [-2, 2]", lambda value: -2 <= value <= 2)


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn and when a request ends. UsageError names a wrong parameter, its value and what is legal.

    A parameter left out takes the model's own default, if its generation config has one and the engine uses it, else
    the one shown here. `given` holds the names of those that were passed; `replace` makes a copy that keeps it, where
    `dataclasses.replace` would pass, and so fix, them all.
    """

    n: int = _param(1, "Continuations of each prompt; at temperature 0 equal copies.", _integer(1, MAX_N))
    temperature: float = _param(
        1.0,
        "Divides the logits before the draw; 0 takes the likeliest token.",
        Rule(float, ">= 0 and finite", lambda value: value >= 0 and math.isfinite(value)),
    )
    top_k: int = _param(
        0, "Draw from the k likeliest tokens (equals of the k-th too); 0 or -1: from all.", _integer(-1, _MAX_INT)
    )
    top_p: float = _param(
        1.0,
        "Draw from the fewest likeliest tokens that have this much probability together, after top_k.",
        Rule(float, "in (0, 1]", lambda value: 0 < value <= 1),
    )
    min_p: float = _param(
        0.0,
        "Draw from tokens at least this likely, as a share of the likeliest one's probability.",
        Rule(float, "in [0, 1]", lambda value: 0 <= value <= 1),
    )
    repetition_penalty: float = _param(
        1.0,
        "Divides positive and multiplies negative logits of tokens seen in prompt or output; above 1 discourages.",
        Rule(float, "> 0 and finite", lambda value: value > 0 and math.isfinite(value)),
    )
    frequency_penalty: float = _param(
        0.0, "Subtracted from a token's logit for each time it stands in the output.", _PENALTY
    )
    presence_penalty: float = _param(0.0, "Subtracted once from the logit of each token in the output.", _PENALTY)
    logit_bias: tuple[tuple[int, float], ...] = _param(
        (),
        "Added to the logits of tokens, {id: bias}; a bias is cut to -100..100. Kept as pairs.",
        Rule(
            tuple,
            "a mapping of token ids >= 0 to numbers",
            lambda value: all(map(_is_bias, value)) and len({token for token, _ in value}) == len(value),
            items=Items.BIASES,
        ),
    )
    allowed_token_ids: tuple[int, ...] | None = _param(
        None, "Draw from these tokens only.", _ids("a list of at least one token id >= 0", low=1, optional=True)
    )
    bad_words: tuple[str, ...] = _param(
        (),
        "Texts that the output will not contain, with or without a space before them.",
        Rule(
            tuple,
            "a list of texts that are not empty",
            lambda value: all(isinstance(text, str) and text != "" for text in value),
            items=Items.TEXTS,
        ),
    )
    seed: int | None = _param(
        None,
        "Makes draws repeatable; absent or -1: drawn from the engine's seed and the request's number.",
        _integer(-1, MAX_SEED, optional=True),
    )
    max_tokens: int | None = _param(
        16,
        "Most tokens to generate; None: as many as max_model_len leaves room for.",
        _integer(1, _MAX_INT, optional=True),
    )
    min_tokens: int = _param(
        0,
        "No end token and none of stop_token_ids is drawn before the output has as many; at most max_tokens.",
        _integer(0, _MAX_INT),
    )
    stop_token_ids: tuple[int, ...] = _param(
        (), "Token ids that end the request, beside the model's own.", _ids("a list of token ids >= 0")
    )
    stop: tuple[str, ...] = _param(
        (),
        "Texts that end the request where they first stand in the output, which is cut there. Not looked for before "
        "the output has min_tokens tokens; of two, the one that ends first counts, of two with one end the longer.",
        Rule(
            tuple,
            f"a text, or a list of at most {MAX_STOP_STRINGS} texts, of 1 to {MAX_STOP_BYTES} bytes each",
            lambda value: len(value) <= MAX_STOP_STRINGS and all(map(_is_stop, value)),
            items=Items.TEXTS,
            bare=True,
        ),
    )
    include_stop_str_in_output: bool = _param(False, "Cut the output behind the stop text, not before it.", _SWITCH)
    ignore_eos: bool = _param(False, "Go on after the model's end token.", _SWITCH)
    logprobs: int | None = _param(
        None,
        "Log-probabilities of that many likeliest tokens beside the chosen one; 0 is the chosen one alone.",
        _integer(0, MAX_LOGPROBS, optional=True),
    )
    prompt_logprobs: int | None = _param(
        None, "The same for every prompt token but the first.", _integer(0, MAX_LOGPROBS, optional=True)
    )
    skip_special_tokens: bool = _param(True, "Leave special tokens out of the text.", _SWITCH)
    given: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = []
        for name, rule, default in _rules():
            value = getattr(self, name)
            if value is UNSET:
                value = default
            else:
                given.append(name)
                value = _checked(name, value, rule)
            object.__setattr__(self, name, value)  # normalised once, here, before anyone sees it
        object.__setattr__(self, "given", frozenset(given))
        if "max_tokens" in given:
            self.check_lengths()

    def replace(self, **changes: Any) -> SamplingParams:
        """A copy with some parameters changed; those left out stay left out."""
        return SamplingParams(**{**{name: getattr(self, name) for name in self.given}, **changes})

    def over(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """These parameters, with `defaults` in place of those that were left out. UsageError if they do not agree."""
        missing = {name: value for name, value in defaults.items() if name not in self.given}
        full = self.replace(**missing) if missing else self
        full.check_lengths()
        return full

    def check_lengths(self) -> None:
        """UsageError if more tokens are wanted than allowed."""
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise UsageError(
                f"min_tokens must be in 0..max_tokens, which is {self.max_tokens}, got {self.min_tokens}",
                subject="min_tokens",
            )


def parameters() -> tuple[Field[Any], ...]:
    """The table: a dataclass field each, metadata doc, rule and default."""
    return tuple(item for item in fields(SamplingParams) if item.init)


@functools.cache
def _rules() -> tuple[tuple[str, Rule, Any], ...]:
    """Of each parameter its name, its rule and its default, normalised."""
    table = ((item.name, item.metadata["rule"], item.metadata["default"]) for item in parameters())
    return tuple((name, rule, _checked(name, default, rule)) for name, rule, default in table)


def _checked(name: str, value: Any, rule: Rule) -> Any:
    """The value in its own type. int passes for float, a list for a tuple; bool passes for nothing but bool."""
    if value is None and rule.optional:
        return None
    if value is None and rule.kind is tuple:
        return ()
    given = value
    if rule.kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**1000 else math.inf
    if rule.items is Items.BIASES and isinstance(value, Mapping):
        value = tuple(value.items())
    if rule.bare and isinstance(value, str):
        value = (value,)
    if rule.kind is tuple and isinstance(value, list):
        value = tuple(value)
    if type(value) is not rule.kind or not rule.holds(value):
        legal = rule.legal + (" or None" if rule.optional else "")
        legal = legal if rule.kind in (bool, tuple) else f"{'a number' if rule.kind is float else 'an integer'} {legal}"
        raise UsageError(f"{name} must be {legal}, got {shown(given)}", subject=name)
    return _clamped(value) if rule.items is Items.BIASES else value


def _clamped(pairs: Any) -> tuple[tuple[int, float], ...]:
    return tuple((token, float(min(max(bias, -MAX_BIAS), MAX_BIAS))) for token, bias in pairs)
