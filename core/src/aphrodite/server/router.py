"""Which route a path belongs to. Paths are compared as they are: nothing is redirected, joined or made shorter."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aphrodite.server.dialect import Dialect, Route

Found = dict[str, tuple[Route, Dialect]]  # by method

_PART = re.compile(r"\{(\w+)(:path)?\}")


class Router:
    """All routes of all dialects."""

    def __init__(self, routes: Sequence[tuple[Route, Dialect]]) -> None:
        self._fixed: dict[str, Found] = {}
        self._open: dict[str, tuple[re.Pattern[str], Found]] = {}
        for route, dialect in routes:
            if "{" in route.path:
                found = self._open.setdefault(route.path, (_pattern(route.path), {}))[1]
            else:
                found = self._fixed.setdefault(route.path, {})
            assert route.method not in found, f"{route.method} {route.path} is there twice"
            found[route.method] = (route, dialect)
        self._places = [(_parts(route.path), dialect) for route, dialect in routes]

    def find(self, path: str) -> tuple[Found, dict[str, str]]:
        """What answers at a path, by method, and the parts of the path that have names."""
        if path in self._fixed:
            return self._fixed[path], {}
        for pattern, found in self._open.values():
            match = pattern.fullmatch(path)
            if match is not None:
                return found, match.groupdict()
        return {}, {}

    def near(self, path: str) -> Dialect | None:
        """Whose words a client of a path reads at which nothing is: those of the route that goes along with it for most
        parts, the shortest and first of such. None if the paths of all routes begin otherwise."""
        asked = _parts(path)

        def nearness(place: tuple[list[str], Dialect]) -> tuple[int, int]:
            return _num_shared(place[0], asked), -len(place[0])

        parts, dialect = max(self._places, key=nearness)
        return dialect if _num_shared(parts, asked) else None


def _parts(path: str) -> list[str]:
    return path.strip("/").split("/", 4)[:4]


def _num_shared(one: Sequence[str], other: Sequence[str]) -> int:
    """Parts that both begin with."""
    for place, (part, asked) in enumerate(zip(one, other, strict=False)):
        if part != asked or not part:
            return place
    return min(len(one), len(other))


def _pattern(path: str) -> re.Pattern[str]:
    parts = []
    at = 0
    for match in _PART.finditer(path):
        parts += [re.escape(path[at : match.start()]), f"(?P<{match[1]}>{'.+' if match[2] else '[^/]+'})"]
        at = match.end()
    return re.compile("".join([*parts, re.escape(path[at:])]))
