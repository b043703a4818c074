"""From an HTTP request to a dialect's handler and back. Everything that is refused is refused here, before it.

    scope -> request id -> origin -> key -> route -> method -> body, within limits -> handler -> Json or Stream

Deciding goes by the path in the scope alone, and nobody gets to a handler without a key, but where a route says so.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aphrodite.server.body import Limits, read_body
from aphrodite.server.dialect import IGNORED_HEADER, Access, Call, Dialect, Json, Reply, Route, Stream, refusal
from aphrodite.server.errors import ApiError, too_slow
from aphrodite.server.keys import Keys, presented
from aphrodite.server.logs import AccessLog
from aphrodite.server.router import Router
from aphrodite.server.service import Service

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ENTRY = "aphrodite.entry"  # in a scope's extensions: what counts a generation until its sequences are counted

_FIT_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_STALL_S = 60.0  # a frame that is not taken in that time is the last one
_MAX_IGNORED = 2048  # bytes of the header that lists what was ignored


@dataclass(frozen=True)
class AppSettings:
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


class App:
    """The ASGI application."""

    def __init__(self, service: Service, dialects: Sequence[Dialect], settings: AppSettings, log: AccessLog) -> None:
        self.routes: list[tuple[Route, Dialect]] = [(route, one) for one in dialects for route in one.routes()]
        self._service = service
        self._default = dialects[0]
        self._settings = settings
        self._router = Router(self.routes)
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _refuse_other(scope, receive, send)
            return
        exchange = _Exchange(self, scope, receive, send)
        await exchange.run()

    @property
    def settings(self) -> AppSettings:
        return self._settings

    @property
    def service(self) -> Service:
        return self._service

    @property
    def log(self) -> AccessLog:
        return self._log

    @property
    def default(self) -> Dialect:
        """Whose words errors have before a path is looked at."""
        return self._default

    def speaker(self, path: str) -> Dialect:
        """Whose words errors have at a path without a route: clients ask for more than there is, and read them."""
        return self._router.near(path) or self._default

    def find(self, path: str) -> tuple[dict[str, tuple[Route, Dialect]], dict[str, str]]:
        """By method what answers at a path, and the parts of the path that have names."""
        return self._router.find(path)


class _Exchange:
    """One request and its answer."""

    def __init__(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._began_s = time.monotonic()
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._id = _request_id(self._headers)
        self._dialect = app.default
        self._status = 0
        self._is_probe = False  # asked all the time, by machines
        self._sending_since: float | None = None
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # we are inside one
        self._watcher: asyncio.Future[None] | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._is_cut = False
        self._is_too_slow = False
        self._cors = self._cors_headers()

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
        self._app.service.metrics.answered(self._status)
        if not self._is_probe:
            self._app.log.answered(self._id, self._scope["method"], self._scope["path"], self._status, elapsed_s)

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
        settings = self._app.settings
        since = self._sending_since
        if since is not None and time.monotonic() - since > settings.stall_s:
            self._app.service.metrics.too_slow.inc()
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
            if self._is_preflight():
                await self._send_json(Json(b"", 204), {})
                return
            route, call = await self._admitted()
            reply = await route.handler(call)
        except Exception as error:
            reply = self._error(error)
        ignored = {} if call is None or not call.ignored else {IGNORED_HEADER: _listed(call.ignored)}
        await self._send_reply(reply, ignored)

    def _error(self, error: Exception) -> Json:
        """An error as an answer."""
        return refusal(self._dialect, self._app.service.translate(error), self._id)

    async def _admitted(self) -> tuple[Route, Call]:
        """The route of a request that may be handled, and its call. ApiError for any other."""
        settings = self._app.settings
        route, params, tenant = self._route()
        body = None
        if route.body is not None:
            body = await read_body(self._scope, self._receive, settings.limits, lenient=route.lenient)
        return route, Call(
            self._scope,
            self._receive,
            self._app.service,
            settings.limits,
            self._id,
            params,
            tenant,
            (),
            body,
            self._begins,
        )

    def _route(self) -> tuple[Route, dict[str, str], str | None]:
        """The route of a request whose head may be handled, the parts of its path that have names, and whose it is.
        ApiError for any other."""
        settings = self._app.settings
        path = self._path(settings.root_path)
        by_method, params = self._app.find(path)
        some = next(iter(by_method.values()), None)
        self._dialect = self._app.speaker(path) if some is None else some[1]
        route = by_method.get(self._scope["method"], (None, None))[0]
        tenant = self._check_key(route)
        if some is None:
            raise ApiError(404, "not_found", f"there is nothing at {_shown(path)}")
        if route is None:
            allowed = ", ".join(sorted(by_method))
            raise ApiError(405, "method_not_allowed", f"{_shown(path)} takes {allowed}", headers={"allow": allowed})
        service = self._app.service
        if route.generates and service.admission.is_full:
            error = service.no_room()
            service.metrics.no_room(error)
            raise error
        return route, params, tenant

    def _path(self, root_path: str) -> str:
        path: str = self._scope["path"]
        if root_path and path.startswith(root_path + "/"):
            return path[len(root_path) :]
        return path

    def _check_key(self, route: Route | None) -> str | None:
        """Who the caller is, where keys tell. ApiError unless they may know what is here."""
        settings = self._app.settings
        access = Access.KEY if route is None else route.access
        self._is_probe = access == Access.OPEN
        if access == Access.OPEN or settings.is_admin:
            return None
        key = presented(self._headers)
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
                found = self._app.service.translate(error)
                self._app.log.broken(self._id, found)
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

    # ---- origins ----------------------------------------------------------------------------------------------------

    def _cors_headers(self) -> dict[str, str]:
        """What lets a page of an allowed origin read the answer."""
        allowed = self._app.settings.allowed_origins
        origin = _header(self._headers, b"origin")
        if origin is None or not ("*" in allowed or origin in allowed):
            return {}
        return {"access-control-allow-origin": origin, "vary": "origin", "access-control-expose-headers": "*"}

    def _is_preflight(self) -> bool:
        asked = _header(self._headers, b"access-control-request-method")
        if not self._cors or self._scope["method"] != "OPTIONS" or asked is None:
            return False
        wanted = _header(self._headers, b"access-control-request-headers")
        self._cors |= {
            "access-control-allow-methods": "GET, POST, DELETE, HEAD, OPTIONS",
            "access-control-allow-headers": wanted or "authorization, content-type, x-api-key",
            "access-control-max-age": "600",
        }
        return True


def _unauthorized() -> ApiError:
    """One answer for every way to have no key."""
    return ApiError(
        401,
        "invalid_api_key",
        "a key is needed: Authorization: Bearer KEY, or X-Api-Key: KEY",
        headers={"www-authenticate": "Bearer"},
    )


def _request_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The client's, if it may stand in logs and headers, else a new one."""
    given = _header(headers, b"x-request-id")
    return given if given is not None and _FIT_ID.fullmatch(given) else secrets.token_hex(16)


def _header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in headers if key == name), None)


def _listed(names: Sequence[str]) -> str:
    """Names as a header, cut where they are too many. Clients choose them: what no header may hold is spelled out."""
    text = ", ".join(name.encode("unicode_escape").decode() for name in names)
    return text if len(text) <= _MAX_IGNORED else text[:_MAX_IGNORED].rpartition(",")[0] + ", ..."


def _shown(path: str) -> str:
    """A path that may stand in a message."""
    return repr(path if len(path) <= 100 else path[:100] + "...")


async def _refuse_other(scope: Scope, receive: Receive, send: Send) -> None:
    """What is no HTTP request."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
    elif scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
