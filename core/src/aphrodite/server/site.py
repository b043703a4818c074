"""What is behind a port: routes and who speaks at them, the service, and what the operator says of it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aphrodite.server.body import Limits
from aphrodite.server.dialect import Dialect, Route
from aphrodite.server.keys import Keys
from aphrodite.server.logs import AccessLog
from aphrodite.server.router import Found, Router
from aphrodite.server.service import Service

_STALL_S = 60.0  # a frame that is not taken in that time is the last one


@dataclass(frozen=True)
class SiteSettings:
    """What the operator says of the port.

    keys, admin_keys  who may call; no admin keys: nobody may call routes for the administrator
    allowed_origins   pages of these origins may call from a browser; "*" for any
    root_path         a prefix that a proxy has left in the paths
    is_admin          whether whoever gets here is the administrator: the socket lets nobody else in
    stall_s           seconds in which a client must take a frame
    """

    keys: Keys
    admin_keys: Keys
    limits: Limits
    allowed_origins: tuple[str, ...] = ()
    root_path: str = ""
    is_admin: bool = False
    stall_s: float = _STALL_S


class Site:
    """What all requests to a port have in common.

    routes  all of them, each with the dialect that it belongs to
    """

    def __init__(self, service: Service, dialects: Sequence[Dialect], settings: SiteSettings, log: AccessLog) -> None:
        self.routes: list[tuple[Route, Dialect]] = [(route, one) for one in dialects for route in one.routes()]
        self.service = service
        self.settings = settings
        self.log = log
        self.default = dialects[0]
        self._router = Router(self.routes)

    def find(self, path: str) -> tuple[Found, dict[str, str]]:
        """By method what answers at a path, and the parts of the path that have names."""
        return self._router.find(path)

    def speaker(self, path: str) -> Dialect:
        """Whose words errors have at a path without a route: clients ask for more than there is, and read them."""
        return self._router.near(path) or self.default
