"""HTTP on a connection: uvicorn's, with the limits and deadlines that it lacks.

bytes  [ head: 16 KiB, 100 headers, 10 s | body: 1 KiB a second and 60 s ]  then the application's own time
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from aphrodite.server.body import too_large
from aphrodite.server.cycle import Cycle
from aphrodite.server.dialect import refusal
from aphrodite.server.door import Door
from aphrodite.server.ending import Ending
from aphrodite.server.errors import ApiError, draining, from_exception
from aphrodite.server.exchange import request_id_of
from aphrodite.server.gate import place_of
from aphrodite.server.site import Site
from aphrodite.server.wire import written

_CHECK_S = 1.0
_PIECE_BYTES = 8 << 10  # looked at together: a connection sends on while nobody knows how many requests that is
_SLACK_BYTES = 64 << 10  # that a body may take beside what it says, in chunks
_FRAMING = (b"content-length", b"transfer-encoding")  # headers that say where a request ends
_VERSIONS = ("1.0", "1.1")


class _RefusedError(Exception):
    """Raised inside the parser, to get out of it."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


class Protocol(HttpToolsProtocol):
    """One connection."""

    cycle: Cycle

    def __init__(
        self,
        config: Config,
        state: ServerState,
        loop: asyncio.AbstractEventLoop,
        site: Site,
        door: Door,
    ) -> None:
        super().__init__(config, state, {}, loop)
        self._site = site
        self._limits = site.settings.limits
        self._door = door
        self._ending: Ending
        self._is_told_again = False  # whether the parser is told of a head for the second time
        self._is_refused = False  # whether what comes is of no more use
        self._is_half_closed = False  # whether the client sends no more, and waits for its answers
        self._refusal: _RefusedError | None = None
        self._has_begun = False  # whether a request is being received, by what the parser says
        self._last_words: bytes | None = None  # a refusal that waits for the answers before it
        self._ahead = b""  # bytes behind a request that has yet to be answered, and behind more of them
        self._num_head_bytes = 0
        self._num_body_bytes = 0
        self._num_to_skip = 0  # bytes of the body of a request that was refused at the door
        self._in_head = True  # of the next request, or of one that has begun
        self._in_body = False
        self._began_s: float | None = None  # the head, then the body, that is being received
        self._timer: asyncio.TimerHandle | None = None
        self._answered: Cycle | None = None  # the request that is answered now, or was last; it may be an earlier one
        # than `cycle`, the last whose head is here

    # ---- the connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come: it must say something in time. uvicorn's own method finds out the addresses of both sides
        too, which nobody asks for, and which takes longer than a refusal."""
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self._ending = Ending(transport, self.loop, self._limits.unread_s)
        self._await_bytes()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left."""
        self._rest()
        self._ending.cancel()
        self._unset_keepalive_if_required()
        self._ahead = b""
        super().connection_lost(exc)
        if self._is_answering:
            self._break_off()

    def eof_received(self) -> bool:  # type: ignore[override]
        """It sends no more. What it has asked for it still gets, where the transport can do that: not over TLS."""
        if not self._is_answering or self._ending.is_lingering or self.scheme == "https":
            return False
        if self._in_body and self.cycle is self._answered:  # it will never be whole
            return False
        if not self._is_refused and (self._in_body or self._num_head_bytes):
            self._refuse(None)
        if not self._is_half_closed:
            self._is_half_closed = True
            if self._answered is not None and self._answered.is_old:
                self._ending.give_up_soon()
            else:
                self._ending.look(self._ask)
        return True

    def _ask(self) -> None:
        if self._answered is not None and not self.flow.write_paused:
            self._answered.ask()

    def data_received(self, data: bytes) -> None:
        """Bytes, of which the parser makes calls to the methods below."""
        if self._is_refused:
            self._ending.drop(data)
        elif self._ahead:
            self._ahead += data
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Look at bytes piece by piece, up to a request that waits for the answers before it."""
        if len(data) <= _PIECE_BYTES and not self.pipeline:
            self._take_piece(data)
            return
        view = memoryview(data)
        while view and not self._is_refused and not self.transport.is_closing():
            if self.pipeline:
                self._ahead = bytes(view)
                return
            piece, view = bytes(view[:_PIECE_BYTES]), view[_PIECE_BYTES:]
            self._take_piece(piece)

    def _take_ahead(self) -> None:
        data, self._ahead = self._ahead, b""
        self._take(data)
        if not self.pipeline and not self._is_refused:
            self.flow.resume_reading()
        if self._is_half_closed and not self._is_answering:
            self._end()

    def _take_piece(self, data: bytes) -> None:
        try:
            if self._door.is_shut or self._num_to_skip:
                data = self._turn_away(data)
            if data:
                self._read(data)
        except MemoryError:
            self._refuse(_no_memory())
            return
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, MemoryError):  # in one of its calls
                self._refuse(_no_memory())
                return
            found = self._refusal
            self._refuse(found.error if found is not None else _no_http("this is no HTTP request"))
            return
        if self._in_head and self._num_head_bytes > self._limits.header_bytes + self._limits.url_bytes:
            self._refuse(self._too_many())
        elif self._in_body and self._num_body_bytes > self._limits.body_bytes + _SLACK_BYTES:
            self._refuse(too_large(self._limits))

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
            is_between = not self._is_answering and self._in_head and not self._num_head_bytes and not self.pipeline
            found = None
            if is_between and self._door.is_shut and not self.flow.write_paused:  # or what is said would pile up
                found = self._door.refuse(data)
            if found is None:
                break
            self._unset_keepalive_if_required()
            self.transport.write(found.answer)
            self._ending.watch_unread()
            if found.closes:
                self._rest()
                self._ending.close()
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
        self._has_begun = self._in_head = True
        self._num_sized = self._num_trailers = 0

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        if self._is_told_again:
            return
        super().on_url(url)
        most = self._limits.url_bytes
        if len(self.url) > most:
            error = ApiError(414, "uri_too_long", f"the target must have at most {most} bytes")
            raise self._refused(error)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or one that comes after the body: by then all is settled that it could say."""
        if self._is_told_again:
            return
        if self._in_head:
            super().on_header(name, value)
        else:
            self._num_trailers += 1
        self._num_sized += len(name) + len(value) + 4
        if (
            self._num_sized > self._limits.header_bytes
            or len(self.headers) + self._num_trailers > self._limits.num_headers
        ):
            raise self._refused(self._too_many())

    def on_headers_complete(self) -> None:
        """The head is here. The application begins; it reads the body as it comes."""
        if self._is_told_again:
            return
        version = self.parser.get_http_version()
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if version not in _VERSIONS:
            raise self._refused(_no_http("HTTP/1.1 and HTTP/1.0 are spoken here"))
        if codings and (codings != [b"chunked"] or version == "1.0"):
            raise self._refused(_no_http("transfer-encoding may be chunked, in HTTP/1.1, and nothing else"))
        path, query = self._target()
        self.scope |= {
            "method": self.parser.get_method().decode("ascii"),
            "http_version": version,
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "extensions": {"aphrodite.part": self._part},  # type: ignore[dict-item]
        }
        self._in_head = False
        self._num_head_bytes = self._num_body_bytes = 0
        self._in_body = True
        self._began_s = time.monotonic()
        before: Cycle | None = self.cycle
        self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and version != "1.0",
            keep_alive=version != "1.0" and self.parser.should_keep_alive() and not self._is_too_long(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _target(self) -> tuple[bytes, bytes]:
        """Path and query of what is asked for."""
        try:
            found = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            found = None
        if found is None or not found.path or not found.path.isascii():
            raise self._refused(_no_http("the target must be a path"))
        return found.path, found.query or b""

    def _is_too_long(self) -> bool:
        """Whether a body is said to come that nobody will wait for the end of."""
        lengths = [value for name, value in self.headers if name == b"content-length"]
        return any(int(value) > self._limits.body_bytes for value in lengths)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Let the application answer."""
        assert isinstance(cycle, Cycle)
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        """All of the request is here."""
        if self.parser.should_upgrade() and any(name in _FRAMING for name, _ in self.headers):
            return  # see _parse
        if self._answered is self.cycle and not self.cycle.response_complete:
            self._door.let_in(self.cycle.scope)
        super().on_message_complete()
        self._has_begun = False
        if self.cycle.response_complete:
            self._await_next()  # the clock of an idle connection was stopped by a body that nobody has waited for
        else:
            self._in_body = False
            self._in_head = True
            self._rest()

    # ---- the end of an answer ---------------------------------------------------------------------------------------

    @property
    def _is_answering(self) -> bool:
        return self._answered is not None and not self._answered.response_complete

    def on_response_complete(self) -> None:
        """All of an answer is written; the client has yet to take it. If it was asked to wait before it sends a body,
        nobody knows whether that still comes, and the next request could be taken for it: the connection ends."""
        assert self._answered is not None
        waits = self._in_body and self.cycle.response_complete and self.expect_100_continue and not self._num_body_bytes
        if self._answered.ends or waits:
            self._end()
        else:
            super().on_response_complete()
            self._go_on()
        self._ending.watch_unread()

    def _go_on(self) -> None:
        """To what stands behind an answer."""
        if self.pipeline or self._ahead or self._is_answering:
            self.flow.pause_reading()  # or each answer would let more requests in than it takes off the line
            if not self.pipeline and self._ahead:
                self.loop.call_soon(self._take_ahead)
        elif self._last_words is not None:
            self._say_last_words()
        elif self._is_half_closed:
            self._end()

    def _end(self) -> None:
        """End the connection with what is written. What the client still sends would take that away from it."""
        is_sending = (self._is_refused or self._in_body or bool(self._ahead)) and not self._is_half_closed
        self._is_refused = True
        self._last_words = None
        self._ahead = b""
        self._unset_keepalive_if_required()
        self._rest()
        self.pipeline.clear()
        if is_sending:
            self._ending.linger()
        else:
            self._ending.close()

    def shutdown(self) -> None:
        """The server ends: what is answered now is the last. A request that is not here yet comes too late."""
        if self._in_body and self._is_answering and self._answered is self.cycle and not self.cycle.response_started:
            self._refuse(draining())
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """It has asked for nothing more for a while."""
        if not self.transport.is_closing():
            self._ending.close()

    def resume_writing(self) -> None:
        """The client has taken what was too much."""
        super().resume_writing()
        self._ending.drained()

    # ---- limits -----------------------------------------------------------------------------------------------------

    def _too_many(self) -> ApiError:
        limits = self._limits
        return ApiError(
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
        elif self._in_head and not self._num_head_bytes and not self._is_answering:
            self._is_refused = True
            self._ending.close()  # it has said nothing: there is nothing to answer
        else:
            self._refuse(ApiError(408, "request_timeout", "the request was not received in time"))

    def _refused(self, error: ApiError) -> _RefusedError:
        """To be raised inside the parser."""
        self._refusal = _RefusedError(error)
        return self._refusal

    def _refuse(self, error: ApiError | None) -> None:
        """Nothing that comes is of use any more, and an error, if there is one, says why. It is said when all before it
        is answered, and not in the middle of an answer to the request itself. Then the connection ends."""
        self._is_refused = True
        self._ahead = b""
        self._rest()
        if self._in_body and self.cycle is self._answered:
            if not self._is_answering:
                error = None  # it was answered before its body was here
            elif error is not None and not self.cycle.response_started:
                self.cycle.refuse(error)
                return
            else:
                self._break_off()
                self._end()
                return
        elif self._in_body:  # it would have been the next
            self.pipeline.popleft()
        self._last_words = b"" if error is None else self._words(error)
        if self._is_answering:
            self.flow.pause_reading()
        else:
            self._say_last_words()

    def _say_last_words(self) -> None:
        if self._last_words:
            self.transport.write(self._last_words)
        self._end()

    def _words(self, error: ApiError) -> bytes:
        """An error in the words of whoever would have answered, as far as that is known."""
        error = replace(error, closes=True)
        headers, method, url = [], b"", b""
        if self._has_begun:
            headers, method, url = self.headers, self.parser.get_method(), self.url
        path = url.partition(b"?")[0].decode("latin-1")
        dialect = place_of(self._site, {"path": path, "method": method.decode("ascii")}).dialect
        self._site.service.metrics.answered(error.status)
        request_id = request_id_of(headers)
        return written(refusal(dialect, error, request_id), request_id, with_body=method != b"HEAD")

    def _break_off(self) -> None:
        """What the application says now goes nowhere."""
        assert self._answered is not None
        self._answered.disconnected = True
        self._answered.message_event.set()

    def _part(self) -> None:
        """Wait for the client no longer: what the answer still has to say goes into the buffer, and the connection
        ends, when that is sent or when it has lingered."""
        if self._answered is not None:
            self._answered.keep_alive = False
        self.flow.resume_writing()
        self._ending.part()


def _no_http(message: str) -> ApiError:
    return ApiError(400, "invalid_http", message)


def _no_memory() -> ApiError:
    return from_exception(MemoryError())


def protocol_factory(
    config: Config,
    state: ServerState,
    loop: asyncio.AbstractEventLoop,
    site: Site,
    door: Door,
) -> Callable[[], Any]:
    """What makes a protocol for each connection."""
    return lambda: Protocol(config, state, loop, site, door)
