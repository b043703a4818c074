"""HTTP on a connection: uvicorn's, with the limits and deadlines that it lacks.

bytes  [ head: 16 KiB, 100 headers, 10 s | body: 1 KiB a second and 60 s ]  then the application's own time
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from aphrodite.server.body import Limits
from aphrodite.server.door import Door

_CHECK_S = 1.0
_LINGER_S = 10.0  # in which a client may still take the last frames of an answer that it has left unread
_FRAMING = (b"content-length", b"transfer-encoding")  # headers that say where a request ends
_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
_NO_MEMORY = (503, "out_of_memory", "the server had no memory for this request: ask for less")


class _RefusedError(Exception):
    """Raised inside the parser, to get out of it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = (status, code, message)


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        door: Door,
    ) -> None:
        super().__init__(config, state, {}, loop)
        self._limits = limits
        self._door = door
        self._is_told_again = False  # whether the parser is told of a head for the second time
        self._is_refused = False
        self._refusal: _RefusedError | None = None
        self._num_head_bytes = 0
        self._num_body_bytes = 0
        self._num_to_skip = 0  # bytes of the body of a request that was refused at the door
        self._in_head = True  # of the next request, or of one that has begun
        self._in_body = False
        self._began_s: float | None = None  # the head, then the body, that is being received
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._has_drained = False  # all but little of what was written was taken, since that was looked at
        self._answered: RequestResponseCycle | None = None  # the request that is answered now, or was last; it may be
        # an earlier one than `cycle`, the last whose head is here

    # ---- the connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come: it must say something in time. uvicorn's own method finds out the addresses of both sides
        too, which nobody asks for, and which takes longer than a refusal."""
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self._await_bytes()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left."""
        self._rest()
        for timer in (self._unread_timer, self._end_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Bytes, of which the parser makes calls to the methods below."""
        if self._is_refused:
            return
        try:
            if self._door.is_shut or self._num_to_skip:
                data = self._turn_away(data)
            if data:
                self._read(data)
        except MemoryError:
            self._refuse(*_NO_MEMORY)
            return
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, MemoryError):  # in one of its calls
                self._refuse(*_NO_MEMORY)
                return
            found = self._refusal
            self._refuse(*(found.answer if found is not None else (400, "invalid_http", "this is no HTTP request")))
            return
        if self._in_head and self._num_head_bytes > self._limits.header_bytes + self._limits.url_bytes:
            self._refuse(*self._too_large())

    # ---- requests that are refused at the door ----------------------------------------------------------------------

    def _turn_away(self, data: bytes) -> bytes:
        """Answer requests that are refused at the door, and skip their bodies. What is left is for the parser, which
        knows nothing of them."""
        while data:
            if self._num_to_skip:
                skipped = min(self._num_to_skip, len(data))
                self._num_to_skip -= skipped
                self._num_body_bytes += skipped
                data = data[skipped:]
                if not self._num_to_skip:
                    self._await_next()
                continue
            answered = self._answered is None or self._answered.response_complete
            is_between = answered and self._in_head and not self._num_head_bytes and not self.pipeline
            found = None
            if is_between and self._door.is_shut and not self.flow.write_paused:  # or what is said would pile up
                found = self._door.refuse(data)
            if found is None:
                break
            self._unset_keepalive_if_required()
            self.transport.write(found.answer)
            self._watch_unread()
            if found.closes:
                self._rest()
                self.transport.close()
                return b""
            self._num_to_skip = max(0, found.num_bytes - len(data))
            if self._num_to_skip:
                self._in_head, self._in_body, self._num_body_bytes = False, True, 0
                self._await_bytes()
            else:
                self._await_next()
            data = data[found.num_bytes :]
        return data

    def _await_next(self) -> None:
        """All of a request is here, and it is answered: the next may come."""
        self._in_body = False
        self._in_head = True
        self._rest()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # ---- requests that are read -------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        """Count bytes, and feed them to the parser."""
        if self._in_head:
            self._num_head_bytes += len(data)
            if self._began_s is None:
                self._await_bytes()
        if self._in_body:
            self._num_body_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Feed the parser. Where a request asks for another protocol, it leaves the rest to that. There is none here:
        what comes next is the request's body all the same, as its head says, or the next request."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as error:
                data = data[error.args[0] :]
            self.parser = httptools.HttpRequestParser(self)
            lines = [b"%s: %s\r\n" % header for header in self.headers if header[0] in _FRAMING]
            if lines:
                line = b"" if self.cycle.keep_alive else b"connection: close\r\n"
                self._is_told_again = True
                self.parser.feed_data(b"POST / HTTP/1.1\r\n%s%s\r\n" % (line, b"".join(lines)))
                self._is_told_again = False
            if not data:
                return

    # ---- the parser's calls -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._is_told_again:
            return
        super().on_message_begin()
        self._in_head = True
        self._num_sized = 0

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        if self._is_told_again:
            return
        super().on_url(url)
        if len(self.url) > self._limits.url_bytes:
            self._give_up(414, "uri_too_long", f"the target must have at most {self._limits.url_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if self._is_told_again:
            return
        super().on_header(name, value)
        self._num_sized += len(name) + len(value) + 4
        if self._num_sized > self._limits.header_bytes or len(self.headers) > self._limits.num_headers:
            self._give_up(*self._too_large())

    def on_headers_complete(self) -> None:
        """The head is here. The application begins; it reads the body as it comes."""
        if self._is_told_again:
            return
        self._in_head = False
        self._num_head_bytes = self._num_body_bytes = 0
        self._in_body = True
        self._began_s = time.monotonic()
        self.scope["extensions"] = {"aphrodite.part": self._part}  # type: ignore[dict-item]
        try:
            super().on_headers_complete()
        except Exception as error:
            self._in_body = False  # its answer is still to be written
            if isinstance(error, (UnicodeDecodeError, httptools.HttpParserInvalidURLError)):
                self._give_up(400, "invalid_http", "the target must be a path")
            raise

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Let the application answer."""
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        """All of the request is here."""
        if self.parser.should_upgrade() and any(name in _FRAMING for name, _ in self.headers):
            return  # see _parse
        if self._answered is self.cycle and not self.cycle.response_complete:
            self._door.let_in(self.cycle.scope)
        super().on_message_complete()
        if self.cycle.response_complete:
            self._await_next()  # the clock of an idle connection was stopped by a body that nobody has waited for
        else:
            self._in_body = False
            self._in_head = True
            self._rest()

    # ---- the end of an answer ---------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """All of an answer is written; the client has yet to take it. If it was asked to wait before it sends a body,
        nobody knows whether that still comes, and the next request could be taken for it: the connection ends."""
        if self._in_body and self.cycle.response_complete and self.expect_100_continue and not self._num_body_bytes:
            self.transport.close()
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()  # or each answer would let more requests in than it takes off the line
        self._watch_unread()

    def resume_writing(self) -> None:
        """The client has taken what was too much."""
        super().resume_writing()
        self._has_drained = True

    def _watch_unread(self) -> None:
        """From now on: what is left may be of several answers, and more than what was left before."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        left = self.transport.get_write_buffer_size()
        if left:
            self._has_drained = False
            self._unread_timer = self.loop.call_later(self._limits.unread_s, self._check_unread, left)

    def _check_unread(self, before: int) -> None:
        """End a connection on which nothing was taken all the time."""
        if self.transport.get_write_buffer_size() >= before and not self._has_drained:
            self.transport.abort()
        else:
            self._watch_unread()

    # ---- limits -----------------------------------------------------------------------------------------------------

    def _too_large(self) -> tuple[int, str, str]:
        limits = self._limits
        return (
            431,
            "headers_too_large",
            f"a request may have {limits.num_headers} headers of {limits.header_bytes} bytes together",
        )

    def _await_bytes(self) -> None:
        """The clock runs until the request is here."""
        self._began_s = time.monotonic()
        if self._timer is None:
            self._timer = self.loop.call_later(_CHECK_S, self._check_time)

    def _rest(self) -> None:
        """Nothing is being waited for."""
        self._began_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_time(self) -> None:
        self._timer = None
        if self._began_s is None or self._is_refused:
            return
        elapsed_s = time.monotonic() - self._began_s
        limits = self._limits
        if self._in_body:
            is_slow = self._num_body_bytes < (elapsed_s - limits.head_s) * limits.body_bytes_a_s
            late = elapsed_s > limits.body_s or is_slow
        else:
            late = elapsed_s > limits.head_s - _CHECK_S
        if not late:
            self._timer = self.loop.call_later(_CHECK_S, self._check_time)
        elif self._in_head and not self._num_head_bytes:
            self._is_refused = True
            self.transport.close()  # it has said nothing: there is nothing to answer
        else:
            self._refuse(408, "request_timeout", "the request was not received in time")

    def _give_up(self, status: int, code: str, message: str) -> None:
        """Refuse from inside the parser."""
        self._refusal = _RefusedError(status, code, message)
        raise self._refusal

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer, unless an answer is under way, and close."""
        self._is_refused = True
        self._rest()
        cycle = self._answered
        if cycle is None or cycle.response_complete:
            if not self._in_body:  # it was answered before its body was here
                self.transport.write(_answer(status, code, message))
        elif not cycle.response_started:
            cycle.disconnected = True  # what the application says now goes nowhere
            cycle.message_event.set()
            self.transport.write(_answer(status, code, message))
        self.transport.close()

    def _part(self) -> None:
        """Wait for the client no longer: what the answer still has to say goes into the buffer, and the connection
        ends, when that is sent or when it has lingered."""
        if self._answered is not None:
            self._answered.keep_alive = False
        self.flow.resume_writing()
        if self._end_timer is None:
            self._end_timer = self.loop.call_later(_LINGER_S, self.transport.abort)


def _answer(status: int, code: str, message: str) -> bytes:
    kind, again = ("service_unavailable", "retry-after: 5\r\n") if status == 503 else ("invalid_request_error", "")
    body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{again}connection: close\r\n\r\n"
    )
    return head.encode() + body


def protocol_factory(
    config: Config,
    state: ServerState,
    limits: Limits,
    loop: asyncio.AbstractEventLoop,
    door: Door,
) -> Callable[[], Any]:
    """What makes a protocol for each connection."""
    return lambda: Protocol(config, state, limits, loop, door)
