"""Reading the fields of a body that are no sampling parameters, and what all answers have."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aphrodite.server.errors import invalid
from aphrodite.server.generation import Usage
from aphrodite.server.idle import Idle, Kind, idle
from aphrodite.types.outputs import Logprob
from aphrodite.types.shown import shown

# Labels that OpenAI keeps beside a request, and switches.
_LABELS: Mapping[str, Idle] = {
    "user": Idle(Kind.TEXT),
    "metadata": Idle(Kind.OBJECT),
    "store": Idle(Kind.SWITCH, (False,)),
    "service_tier": Idle(Kind.TEXT, ("auto", "default")),
    "parallel_tool_calls": Idle(Kind.SWITCH, (True,)),
    "modalities": Idle(Kind.LIST, (["text"],)),
    "include": Idle(Kind.LIST, ([],)),
    "prompt_cache_key": Idle(Kind.TEXT),
    "safety_identifier": Idle(Kind.TEXT),
}


def flag(body: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A switch; null is as good as absent."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise invalid(name, f"{name} must be true or false, got {shown(value)}")
    return value


def whole(body: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """An integer in bounds."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise invalid(name, f"{name} must be an integer in {low}..{high}, got {shown(value)}")
    return value


def text(body: Mapping[str, Any], name: str, within: str = "") -> str | None:
    """A text. within: what a refusal calls the object that holds it, with a dot."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(within + name, f"{within}{name} must be a text, got {shown(value)}")
    return value


def mapping(body: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """An object."""
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise invalid(name, f"{name} must be an object, got {shown(value)}")
    return value


def seconds(body: Mapping[str, Any], name: str) -> float | None:
    """A number of seconds; its bounds are checked where it is used."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid(name, f"{name} must be a number of seconds, got {shown(value)}")
    return float(min(max(value, -1), 10**13))


@dataclass(frozen=True)
class Streaming:
    """Whether an answer comes in parts, and whether the last of them is the usage."""

    on: bool
    include_usage: bool

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Streaming:
        """`stream` and `stream_options`."""
        on = flag(body, "stream")
        options = mapping(body, "stream_options")
        if options is not None and not on:
            raise invalid("stream_options", "stream_options may only be there when stream is true")
        return cls(on, flag(options or {}, "include_usage"))


def refuse_structure(body: Mapping[str, Any]) -> None:
    """ApiError for a response_format other than text, which would have to be kept to."""
    form = mapping(body, "response_format")
    if form and "type" not in form:
        raise invalid("response_format", 'response_format must have a type: use {"type": "text"}')
    if form and form["type"] != "text":
        raise invalid(
            "response_format",
            f'response_format of type {shown(form["type"])} is not supported yet: use {{"type": "text"}}',
            "unsupported_parameter",
        )


def ignored_of(body: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """Of these labels, which are there with a value that should change something. ApiError for one of another kind."""
    return idle(body, {name: _LABELS[name] for name in names})


def array(body: Mapping[str, Any], name: str) -> list[Any] | None:
    """A list."""
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        raise invalid(name, f"{name} must be a list, got {shown(value)}")
    return value


def token_ids(body: Mapping[str, Any], name: str, size: int) -> list[int]:
    """Ids of a vocabulary of that size."""
    value = array(body, name)
    if value is None:
        raise invalid(name, f"{name} must be there: a list of token ids in 0..{size - 1}")
    if value and not (set(map(type, value)) == {int} and min(value) >= 0 and max(value) < size):
        place = next(at for at, one in enumerate(value) if type(one) is not int or not 0 <= one < size)
        where = f"{name}[{place}]"
        raise invalid(where, f"{where} must be a token id in 0..{size - 1}, got {shown(value[place])}")
    return value


def head(kind: str, name: str, model: str) -> dict[str, Any]:
    """What every answer begins with."""
    return {"id": f"{name}-{secrets.token_hex(16)}", "object": kind, "created": int(time.time()), "model": model}


def usage(found: Usage) -> dict[str, Any]:
    """Tokens, as OpenAI counts them."""
    return {
        "prompt_tokens": found.prompt_tokens,
        "completion_tokens": found.completion_tokens,
        "total_tokens": found.prompt_tokens + found.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": found.cached_tokens},
    }


def chosen(position: Mapping[int, Logprob]) -> tuple[int, Logprob]:
    """The token that was drawn: the first of its position."""
    return next(iter(position.items()))


def spelled(entry: Logprob) -> str:
    """A token's text."""
    return entry.decoded_token or ""


def number(logprob: float) -> float:
    """A log-probability that JSON can write: it has no infinity."""
    return max(logprob, -9999.0)
