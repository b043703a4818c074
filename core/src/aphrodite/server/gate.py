"""Who gets to a handler. It goes by the path in the scope alone, and nobody does without a key, but where a route says
so: what a path has or has not is told to those who have one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aphrodite.server.dialect import Access, Dialect, Route, header
from aphrodite.server.errors import ApiError
from aphrodite.server.keys import presented
from aphrodite.server.service import Service
from aphrodite.server.site import Site, SiteSettings

_MOST_DIGITS = 12  # of a body's length that fits here


@dataclass(frozen=True)
class Place:
    """What is at the path of a request.

    path     without the prefix of a proxy
    methods  that it may be asked by; none: there is nothing
    route    what answers to the request's own method
    params   the parts of the path that have names
    """

    path: str
    dialect: Dialect
    methods: Sequence[str]
    route: Route | None
    params: Mapping[str, str]

    @property
    def access(self) -> str:
        """Who may know what is here."""
        return Access.KEY if self.route is None else self.route.access

    def checked(self) -> Route:
        """The route. ApiError if there is none."""
        if not self.methods:
            raise ApiError(404, "not_found", f"there is nothing at {_shown(self.path)}")
        if self.route is None:
            allowed = ", ".join(sorted(self.methods))
            raise ApiError(
                405, "method_not_allowed", f"{_shown(self.path)} takes {allowed}", headers={"allow": allowed}
            )
        return self.route


def place_of(site: Site, scope: Mapping[str, Any]) -> Place:
    """Where a request goes."""
    path: str = scope["path"]
    prefix = site.settings.root_path
    if prefix and path.startswith(prefix + "/"):
        path = path[len(prefix) :]
    by_method, params = site.find(path)
    some = next(iter(by_method.values()), None)
    dialect = site.speaker(path) if some is None else some[1]
    return Place(path, dialect, list(by_method), by_method.get(scope["method"], (None, None))[0], params)


def tenant(settings: SiteSettings, access: str, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Who the caller is, where keys tell. ApiError unless they may know what is here."""
    if access == Access.OPEN or settings.is_admin:
        return None
    key = presented(headers)
    if access == Access.ADMIN:
        if not settings.admin_keys:
            raise ApiError(
                403, "permission_error", "routes of the administrator need --admin-key, or the server's own socket"
            )
        if not settings.admin_keys.hold(key):
            raise _unauthorized()
        return None
    owner, is_admin = settings.keys.owner(key), settings.admin_keys.hold(key)
    if settings.keys and owner is None and not is_admin:
        raise _unauthorized()
    return owner


def check_room(service: Service, route: Route, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """ApiError if a route takes sequences and there is room for none. It costs next to nothing to know."""
    if service.admission.is_full and route.is_refused_unread(_length(headers)):
        error = service.no_room()
        service.metrics.no_room(error)
        raise error


def _length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """Bytes of the body, if the head says so."""
    found = header(headers, b"content-length")
    return int(found) if found is not None and found.isdecimal() and len(found) < _MOST_DIGITS else None


def _unauthorized() -> ApiError:
    """One answer for every way to have no key."""
    return ApiError(
        401,
        "invalid_api_key",
        "a key is needed: Authorization: Bearer KEY, or X-Api-Key: KEY",
        headers={"www-authenticate": "Bearer"},
    )


def _shown(path: str) -> str:
    """A path that may stand in a message."""
    return repr(path if len(path) <= 100 else path[:100] + "...")
