"""A value in a message: as Python writes it, cut where it is long. What is left out is not even looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_MOST = 60  # characters


def shown(value: Any) -> str:
    """A value for people."""
    found = ""
    for part in _parts(value):
        found += part
        if len(found) > _MOST:
            return found[: _MOST - 3] + "..."
    return found


def _parts(value: Any) -> Iterator[str]:
    """What `repr` would say, bit by bit."""
    if isinstance(value, Mapping):
        yield "{"
        for place, (key, inner) in enumerate(value.items()):
            yield ", " if place else ""
            yield from _parts(key)
            yield ": "
            yield from _parts(inner)
        yield "}"
    elif isinstance(value, (list, tuple)):
        left, right = "[]" if isinstance(value, list) else "()"
        yield left
        for place, inner in enumerate(value):
            yield ", " if place else ""
            yield from _parts(inner)
        yield "," + right if right == ")" and len(value) == 1 else right
    else:
        yield repr(value[: _MOST + 1] if isinstance(value, str) else value)
