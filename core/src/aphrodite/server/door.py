"""Refuses generations by their heads alone while there is room for none: of thousands that come in one moment, each
is answered in the time that it takes to find where it ends.

A head that is not as plain as clients write them is left to the parser and the application, which refuse it in the
same words.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aphrodite.server.dialect import Access, Dialect, refusal
from aphrodite.server.errors import ApiError
from aphrodite.server.exchange import ENTRY
from aphrodite.server.keys import presented
from aphrodite.server.site import Site
from aphrodite.server.wire import written

# One way to read any text, so that no text takes longer than its length.
_HEAD = re.compile(rb"POST (/[\w./-]*) HTTP/1\.1\r\n((?:[\w-]+:[\t -~]*\r\n){1,100})\r\n")
_FIELD = re.compile(rb"([\w-]+):([^\r]*)\r\n")
_MOST_HEAD_BYTES = 8 << 10
_UNUSUAL = frozenset(  # fields that say how a request is framed, or what stands in its answer
    (b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection", b"origin", b"x-request-id")
)
_MOST_DIGITS = 12
_ID = secrets.token_hex(16).encode()  # stands in what is said until each answer has its own
_NUM_IDS = 256
_CLOSE = b"\r\nconnection: close\r\n"
_SAME_S = 0.25  # in which the time to come again is taken for the same
_TELL_S = 1.0


class Refusal(NamedTuple):
    """What is answered to a request.

    num_bytes  the request's own length, with what is still to come of its body
    closes     whether the connection ends with it
    """

    answer: bytes
    num_bytes: int
    closes: bool


class Door:
    """Stands between the connections and the application."""

    def __init__(self, site: Site) -> None:
        settings = site.settings
        paths = {
            route.path.encode(): (dialect, route)
            for route, dialect in site.routes
            if route.generates and route.method == "POST" and route.access == Access.KEY and "{" not in route.path
        }
        self._places = paths | {settings.root_path.encode() + path: one for path, one in paths.items()}
        self._service = site.service
        self._admission = site.service.admission
        self._metrics = site.service.metrics
        self._keys = None if settings.is_admin or not settings.keys else settings.keys
        self._most_body_bytes = settings.limits.body_bytes
        self._log = site.log
        self._made: dict[str, _Made] = {}  # by the dialect's name
        self._ids = _ids()
        self._num_untold = 0

    @property
    def is_shut(self) -> bool:
        """Whether there is room for no more, those let in a moment ago among them."""
        return self._admission.is_spoken_for

    def is_generation(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request asks for tokens."""
        return scope["method"] == "POST" and scope["raw_path"] in self._places

    def let_in(self, scope: Mapping[str, Any]) -> None:
        """A request is here, all of it, and the application is about to be asked: if it is a generation, whoever comes
        in the same moment is to know. What has yet to be received is not counted, for it may never come."""
        if self.is_generation(scope):
            scope["extensions"][ENTRY] = self._admission.enter()

    def refuse(self, data: bytes) -> Refusal | None:
        """Refuse the request that `data` begins with, while the door is shut. None: the application is to answer."""
        head = _HEAD.match(data, 0, _MOST_HEAD_BYTES)
        place = self._places.get(head[1]) if head is not None else None
        if head is None or place is None:
            return None
        dialect, route = place
        pairs = _FIELD.findall(head[2].lower())
        fields: dict[bytes, bytes] = dict(pairs)
        length = fields.get(b"content-length", b"").strip()
        if (
            len(fields) < len(pairs)
            or not _UNUSUAL.isdisjoint(fields)
            or not (length.isdigit() and len(length) < _MOST_DIGITS and int(length) <= self._most_body_bytes)
            or not route.is_refused_unread(int(length))
            or not (self._keys is None or self._keys.hold(_key(head[2])))
        ):
            return None
        num_bytes = head.end() + int(length)
        connection = fields.get(b"connection", b"keep-alive").strip()
        if connection == b"keep-alive":
            return Refusal(self._answer(dialect), num_bytes, closes=False)
        if connection == b"close" and num_bytes <= len(data):  # or what still comes would reset it before it is read
            return Refusal(self._answer(dialect).replace(b"\r\n", _CLOSE, 1), num_bytes, closes=True)
        return None

    def _answer(self, dialect: Dialect) -> bytes:
        """A refusal in a dialect's words, counted."""
        now, service = time.monotonic(), self._service
        admission = self._admission
        num_ahead = admission.num_taken + admission.num_entering
        reasons = (num_ahead, service.host.health, service.is_draining, service.is_paused)
        made = self._made.get(dialect.name)
        if made is None or made.until_s < now or made.reasons != reasons:
            error = service.no_room()
            reply = refusal(dialect, error, _ID.decode())
            made = _Made(now + _SAME_S, reasons, error, reply.status, written(reply, _ID.decode()).split(_ID))
            self._made[dialect.name] = made
        if not made.num_uncounted:
            asyncio.get_running_loop().call_soon(self._count, made)
        made.num_uncounted += 1
        if not self._num_untold:
            asyncio.get_running_loop().call_later(_TELL_S, self._tell)
        self._num_untold += 1
        return next(self._ids).join(made.parts)

    def _count(self, made: _Made) -> None:
        """All of one pass of the event loop at once."""
        count, made.num_uncounted = made.num_uncounted, 0
        self._metrics.no_room(made.error, count)
        self._metrics.answered(made.status, count)

    def _tell(self) -> None:
        """A line for them all: as many as come would be one more load, and the line that matters lost among them."""
        self._log.refused(self._num_untold, _TELL_S)
        self._num_untold = 0


@dataclass
class _Made:
    """What is said to whoever comes until then, while the reasons are the same."""

    until_s: float
    reasons: tuple[object, ...]
    error: ApiError
    status: int
    parts: list[bytes]  # between them stands the request's id
    num_uncounted: int = 0


def _key(lines: bytes) -> bytes | None:
    """The key that a head shows."""
    return presented((name.lower(), value) for name, value in _FIELD.findall(lines))


def _ids() -> Iterator[bytes]:
    """Names of requests that nobody can guess; many at a time, for the system takes as long for one as for all."""
    while True:
        found = secrets.token_bytes(_NUM_IDS * 16).hex().encode()
        yield from (found[start : start + 32] for start in range(0, len(found), 32))
