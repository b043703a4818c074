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

    def find(self, path: str) -> tuple[Found, dict[str, str]]:
        """What answers at a path, by method, and the parts of the path that have names."""
        if path in self._fixed:
            return self._fixed[path], {}
        for pattern, found in self._open.values():
            match = pattern.fullmatch(path)
            if match is not None:
                return found, match.groupdict()
        return {}, {}


def _pattern(path: str) -> re.Pattern[str]:
    parts = []
    at = 0
    for match in _PART.finditer(path):
        parts += [re.escape(path[at : match.start()]), f"(?P<{match[1]}>{'.+' if match[2] else '[^/]+'})"]
        at = match.end()
    return re.compile("".join([*parts, re.escape(path[at:])]))
