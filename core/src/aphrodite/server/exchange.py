"""From an HTTP request to a dialect's handler and back. Everything that is refused is refused here, before it.

scope -> request id -> origin -> path -> key -> method -> room -> body, within limits -> handler -> Json or Stream
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aphrodite.server.body import read_body
from aphrodite.server.dialect import IGNORED_HEADER, Access, Call, Json, Reply, Route, Stream, header, refusal
from aphrodite.server.errors import too_slow
from aphrodite.server.gate import check_room, place_of, tenant
from aphrodite.server.origins import origin_headers, preflight_headers
from aphrodite.server.site import Site

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ENTRY = "aphrodite.entry"  # in a scope's extensions: what counts a generation until its sequences are counted

_FIT_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_MAX_IGNORED = 2048  # bytes of the header that lists what was ignored


class Exchange:
    """One request and its answer."""

    def __init__(self, site: Site, scope: Scope, receive: Receive, send: Send) -> None:
        self._site = site
        self._scope = scope
        self._receive = receive
        self._send = send
        self._began_s = time.monotonic()
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._id = request_id_of(self._headers)
        self._dialect = site.default
        self._status = 0
        self._is_probe = False  # asked all the time, by machines
        self._sending_since: float | None = None
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # we are inside one
        self._watcher: asyncio.Future[None] | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._is_cut = False
        self._is_too_slow = False
        self._cors = origin_headers(site.settings.allowed_origins, self._headers)

    async def run(self) -> None:
        """Answer it, and log that."""
        try:
            await self._answer()
        except asyncio.CancelledError:
            if not self._is_cut:
                raise
            self._task.uncancel()
            await asyncio.sleep(0)  # the connection hears of its end first
        finally:
            if self._watcher is not None:
                self._watcher.cancel()
            if self._stall_timer is not None:
                self._stall_timer.cancel()
            self._leave_door()
            self._note()

    def _note(self) -> None:
        """Count and log what was answered."""
        elapsed_s = time.monotonic() - self._began_s
        self._site.service.metrics.answered(self._status)
        if not self._is_probe:
            self._site.log.answered(self._id, self._scope["method"], self._scope["path"], self._status, elapsed_s)

    def _begins(self) -> None:
        """A generation's sequences are counted next, and its client is watched."""
        self._leave_door()
        self._watch()

    def _leave_door(self) -> None:
        entry = self._scope.get("extensions", {}).pop(ENTRY, None)
        if entry is not None:
            entry.close()

    def _watch(self) -> None:
        """From now on, stop the answer when its client leaves. What is done at once needs no watching."""
        if self._watcher is None:
            self._watcher = asyncio.ensure_future(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cut()

    def _cut(self) -> None:
        """Stop the answer where it is."""
        self._is_cut = True
        self._task.cancel()

    def _check_stall(self) -> None:
        """End a stream that is not read, with an error for whoever reads it after all."""
        settings = self._site.settings
        since = self._sending_since
        if since is not None and time.monotonic() - since > settings.stall_s:
            self._site.service.metrics.too_slow.inc()
            self._status = 408
            self._is_too_slow = True
            part = self._scope.get("extensions", {}).get("aphrodite.part")
            if part is not None:
                part()
            else:
                self._cut()
            return
        self._stall_timer = asyncio.get_running_loop().call_later(settings.stall_s / 4, self._check_stall)

    # ---- the answer -------------------------------------------------------------------------------------------------

    async def _answer(self) -> None:
        call: Call | None = None
        try:
            preflight = preflight_headers(self._scope) if self._cors else None
            if preflight is not None:
                await self._send_json(Json(b"", 204, preflight), {})
                return
            route, call = await self._admitted()
            reply = await route.handler(call)
        except Exception as error:
            reply = self._error(error)
        ignored = {} if call is None or not call.ignored else {IGNORED_HEADER: _listed(call.ignored)}
        await self._send_reply(reply, ignored)

    def _error(self, error: Exception) -> Json:
        """An error as an answer."""
        return refusal(self._dialect, self._site.service.translate(error), self._id)

    async def _admitted(self) -> tuple[Route, Call]:
        """The route of a request that may be handled, and its call. ApiError for any other."""
        site = self._site
        place = place_of(site, self._scope)
        self._dialect = place.dialect
        self._is_probe = place.access == Access.OPEN
        owner = tenant(site.settings, place.access, self._headers)
        route = place.checked()
        check_room(site.service, route, self._headers)
        limits = site.settings.limits
        body = None
        if route.body is not None:
            body = await read_body(self._scope, self._receive, limits, lenient=route.lenient)
        return route, Call(
            self._scope,
            self._receive,
            site.service,
            limits,
            self._id,
            place.params,
            owner,
            (),
            body,
            self._begins,
        )

    # ---- sending ----------------------------------------------------------------------------------------------------

    async def _send_reply(self, reply: Reply, ignored: Mapping[str, str]) -> None:
        if isinstance(reply, Json):
            await self._send_json(reply, ignored)
        else:
            await self._send_stream(reply, ignored)

    async def _send_json(self, reply: Json, ignored: Mapping[str, str]) -> None:
        headers, data = reply.parts()
        await self._send_head(reply.status, {**headers, **ignored})
        await self._send_body(data, more=False)

    async def _send_stream(self, reply: Stream, ignored: Mapping[str, str]) -> None:
        frames = reply.frames
        try:
            try:
                first = await anext(frames, b"")
            except Exception as error:  # nothing is sent yet: it is an answer like any other
                await self._send_json(self._error(error), ignored)
                return
            await self._send_head(
                200,
                {
                    "content-type": reply.content_type,
                    "cache-control": "no-store",
                    "x-accel-buffering": "no",
                    **reply.headers,
                    **ignored,
                },
            )
            self._check_stall()
            try:
                await self._send_frame(first)
                async for frame in frames:
                    await self._send_frame(frame)
            except Exception as error:
                found = self._site.service.translate(error)
                self._site.log.broken(self._id, found)
                await self._send_body(self._dialect.broken(found, self._id), more=True)
            await self._send_body(b"", more=False)
        finally:
            close = getattr(frames, "aclose", None)
            if close is not None:
                await close()

    async def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self._status = status
        await self._send({"type": "http.response.start", "status": status, "headers": self._encoded(headers)})

    def _encoded(self, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        """The answer's headers, those of every answer among them."""
        shown = {"x-request-id": self._id, **self._cors, **headers}
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in shown.items()]

    async def _send_frame(self, data: bytes) -> None:
        """Send a frame once there is room for it. ApiError if that took too long."""
        await self._send_body(data, more=True)
        if self._is_too_slow:
            raise too_slow()

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        self._sending_since = time.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self._sending_since = None


def request_id_of(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The client's, if it may stand in logs and headers, else a new one."""
    given = header(headers, b"x-request-id")
    return given if given is not None and _FIT_ID.fullmatch(given) else secrets.token_hex(16)


def _listed(names: Sequence[str]) -> str:
    """Names as a header, cut where they are too many. Clients choose them: what no header may hold is spelled out."""
    text = ", ".join(name.encode("unicode_escape").decode() for name in names)
    return text if len(text) <= _MAX_IGNORED else text[:_MAX_IGNORED].rpartition(",")[0] + ", ..."
