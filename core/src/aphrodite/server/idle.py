"""Fields that clients send and that change nothing here: what each may hold, and at which values it asks for nothing.

Each dialect has a table of those it knows. What stands in no table is listed too, whatever it holds.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aphrodite.server.errors import invalid
from aphrodite.types.shown import shown

_MAX_NAME = 64


class Kind(enum.Enum):
    """What a field holds, in the words of a refusal."""

    SWITCH = "true or false"
    TEXT = "a text"
    WHOLE = "an integer"
    LIST = "a list"
    OBJECT = "an object"


_TYPES: Mapping[Kind, type] = {
    Kind.SWITCH: bool,
    Kind.TEXT: str,
    Kind.WHOLE: int,
    Kind.LIST: list,
    Kind.OBJECT: dict,
}


@dataclass(frozen=True)
class Idle:
    """A field without effect. off: values that ask for what is done anyway."""

    kind: Kind
    off: tuple[Any, ...] = ()


def idle(body: Mapping[str, Any], table: Mapping[str, Idle]) -> tuple[str, ...]:
    """Of a table's fields, which ask for something that does not happen. null is as good as absent. ApiError names one
    that holds something of another kind."""
    found = []
    for name, field in table.items():
        value = body.get(name)
        if value is None:
            continue
        if type(value) is not _TYPES[field.kind]:
            raise invalid(name, f"{name} must be {field.kind.value}, got {shown(value)}")
        if value not in field.off:
            found.append(name)
    return tuple(found)


def others(body: Mapping[str, Any], known: Collection[str], within: str = "") -> tuple[str, ...]:
    """Fields that nobody here knows, as lists show them. within: what goes before their names."""
    return tuple(within + listed(name) for name, value in body.items() if name not in known and value is not None)


def listed(name: str) -> str:
    """A name that clients have chosen, as a list may show it."""
    return name[:_MAX_NAME] if name.strip() and name.isprintable() else repr(name)[:_MAX_NAME]
