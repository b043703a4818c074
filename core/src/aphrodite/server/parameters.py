"""Sampling parameters as clients send them: the one table, other names for its entries, and loose forms.

Nothing vanishes: what has no effect here is listed, in the answer's head and body, unless its value would have none
anywhere. Under --strict-params it is refused (`Service.start`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from aphrodite.errors import UsageError
from aphrodite.server.aliases import ALIASES, BOUNDS, DETAILS, OFF
from aphrodite.server.errors import ApiError, invalid
from aphrodite.types.sampling_params import MAX_BIAS, Items, Rule, SamplingParams, parameters
from aphrodite.types.shaping import MAX_BIASES
from aphrodite.types.shown import shown

_RULES: Mapping[str, Rule] = {item.name: item.metadata["rule"] for item in parameters()}
_DEFAULTS: Mapping[str, Any] = {item.name: item.metadata["default"] for item in parameters()}


@dataclass(frozen=True)
class Read:
    """What a body holds of parameters: those that count, and the names of those that do not."""

    sampling: SamplingParams
    ignored: tuple[str, ...]


def read(
    body: Mapping[str, Any],
    *,
    own: Collection[str],
    aliases: Mapping[str, str] = ALIASES,
    defaults: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    unplaced: Collection[str] = (),
) -> Read:
    """The sampling parameters of a request's body.

    own       fields that the dialect reads itself
    aliases   other names; those of a dialect go before the common ones if it passes {**ALIASES, ...}
    defaults  in place of parameters that are not there
    fixed     whatever the body says
    unplaced  parameters that are checked and then left out, because the dialect's answers have no place for what they
              give. Those of prompt_logprobs have none but an echo, which asks for its own
    ApiError names the field as the client spelled it, with its value and what is legal. null is as good as absent.
    """
    found: dict[str, Any] = dict(defaults or {})
    spelled: dict[str, str] = {}
    others: list[tuple[str, str, Any]] = []
    passed: list[tuple[str, str, Any]] = []
    for name, value in body.items():
        if name in own or value is None:
            continue
        target = name if name in _RULES else aliases.get(name, name)
        if target not in _RULES:
            others.append((name, target, value))
            continue
        if target in spelled and target != name:
            passed.append((name, target, value))
            continue
        if target in spelled:
            passed.append((spelled[target], target, body[spelled[target]]))
        spelled[target] = name
        found[target] = _loose(name, value, _RULES[target])
    switched_on = {target for _, target, value in others if not _is_off(target, value)}
    if found.get("repetition_penalty", 1) != 1:
        switched_on.add("repetition_penalty")
    ignored = [
        name
        for name, target, value in passed
        if not _says_no_more(_loose(name, value, _RULES[target]), found[target], _RULES[target])
    ]
    for name, target, value in others:
        if target == "dry_sequence_breakers":
            _check_texts(name, value)
        if target in BOUNDS:
            _check_bound(name, _loose(name, value, BOUNDS[target]), BOUNDS[target])
        if target in switched_on and switched_on.intersection(DETAILS.get(target, (target,))):
            ignored.append(listed(name))
    found.update(fixed or {})
    try:
        sampling = SamplingParams(**found)
    except UsageError as error:
        raise _renamed(error, spelled) from None
    ignored = _without_best_of(body.get("best_of"), sampling.n, ignored)
    for name in ("prompt_logprobs", *unplaced):
        if getattr(sampling, name) != _DEFAULTS[name]:
            ignored.append(spelled.get(name, name))
            sampling = sampling.replace(**{name: _DEFAULTS[name]})
    return Read(sampling, tuple(ignored))


def listed(name: str) -> str:
    """A field that clients have named, as a list may show it."""
    return name[:64] if name.isprintable() else repr(name)[:64]


def _without_best_of(best_of: Any, n: int, ignored: list[str]) -> list[str]:
    """What is ignored, but best_of where it asks for no more than n. ApiError if it asks for less."""
    if best_of and best_of < n:
        raise invalid("best_of", f"best_of must be at least n, which is {n}, got {shown(best_of)}")
    return [name for name in ignored if name != "best_of"] if best_of == n else ignored


def _check_bound(name: str, value: Any, rule: Rule) -> None:
    """ApiError unless a parameter that is not here asks for no more than one that is could."""
    if type(value) is not rule.kind or not rule.holds(value):
        raise invalid(name, f"{name} must be an integer {rule.legal}, got {shown(value)}")


def _says_no_more(value: Any, kept: Any, rule: Rule) -> bool:
    """Whether a value says nothing beside the one that counts, under another of the parameter's names: clients send
    both, the same or with one left at what does nothing."""
    is_off = not value if rule.items is not None else rule.kind is int and value == -1
    return is_off or value in (kept, (kept,)) or (value,) == kept


def _renamed(error: UsageError, spelled: Mapping[str, str]) -> ApiError:
    """The refusal with the name that the client used."""
    subject = str(error.subject)
    name = spelled.get(subject, subject)
    return invalid(name, str(error).replace(subject, name, 1)[:500])


def _loose(name: str, value: Any, rule: Rule) -> Any:
    """A value in the forms that clients send: 1.0 for an integer, 1 for true, ids as texts in a bias, or in pairs."""
    if rule.kind is int and type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if rule.kind is bool and type(value) is int and value in (0, 1):
        return bool(value)
    if rule.items is Items.BIASES and isinstance(value, (dict, list)) and len(value) > MAX_BIASES:
        raise invalid(name, f"{name} must have at most {MAX_BIASES} entries, got {len(value)}")
    if rule.items is Items.BIASES and isinstance(value, Mapping):
        return {_token(name, token): bias for token, bias in value.items()}
    if rule.items is Items.BIASES and isinstance(value, list):
        return tuple(_pair(item) for item in value)
    if rule.items is Items.TEXTS and isinstance(value, list):
        return tuple(value)
    return value


def _token(name: str, token: Any) -> Any:
    """A token id, which JSON can only spell as a text where it is a key."""
    if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 16:
        return int(token)
    raise invalid(name, f"{name} must map token ids to numbers, got the key {token[:32]!r}")


def _pair(item: Any) -> Any:
    """A token id and its bias, as llama.cpp's clients send them; false is as low as a bias can be."""
    if isinstance(item, list) and len(item) == 2:
        return (item[0], -MAX_BIAS if item[1] is False else item[1])
    return item


def _is_off(name: str, value: Any) -> bool:
    """Whether this value of a parameter that we do not have changes nothing."""
    return name in OFF and OFF[name](value)


def _check_texts(name: str, value: Any) -> None:
    """ApiError unless it is a list of texts, such a list as JSON in a text, or texts between commas."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return
    try:
        found = msgspec.json.decode(value) if isinstance(value, str) else value
    except (msgspec.DecodeError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise invalid(name, f"{name} must be a list of texts, or one as JSON in a text, got {repr(value)[:60]}")
