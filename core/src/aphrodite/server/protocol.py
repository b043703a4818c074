"""HTTP on a connection: uvicorn's, with the limits and deadlines that it lacks.

bytes  [ head: 16 KiB, 100 headers, 10 s | body: 1 KiB a second and 60 s ]  then the application's own time
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from aphrodite.server.body import too_large
from aphrodite.server.cycle import Cycle
from aphrodite.server.door import Door
from aphrodite.server.ending import Ending
from aphrodite.server.errors import ApiError, draining, from_exception
from aphrodite.server.head import RefusedError, no_http, too_many
from aphrodite.server.parsing import Parsing
from aphrodite.server.reception import Reception
from aphrodite.server.site import Site
from aphrodite.server.wire import unheard

_PIECE_BYTES = 8 << 10  # looked at together: a connection sends on while nobody knows how many requests that is


class Protocol(Parsing):
    """One connection."""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        loop: asyncio.AbstractEventLoop,
        site: Site,
        door: Door,
    ) -> None:
        limits = site.settings.limits
        super().__init__(config, state, loop, limits, Reception(limits, loop, self._late))
        self._site = site
        self._door = door
        self._ending: Ending
        self._is_refused = False  # whether what comes is of no more use
        self._is_half_closed = False  # whether the client sends no more, and waits for its answers
        self._last_words: bytes | None = None  # a refusal that waits for the answers before it
        self._ahead = b""  # bytes behind a request that has yet to be answered, and behind more of them
        self._num_to_skip = 0  # bytes of the body of a request that was refused at the door
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
        self._reception.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left."""
        self._reception.stop()
        self._ending.cancel()
        self._unset_keepalive_if_required()
        self._ahead = b""
        super().connection_lost(exc)
        if self._is_answering:
            self._break_off()

    def eof_received(self) -> bool:  # type: ignore[override]
        """It sends no more. What is answered at once it still gets, where the transport can do that: not over TLS. A
        generation ends with its client: whether that still reads is told only by what is written to it, too late."""
        if not self._is_answering or self._ending.is_lingering or self.scheme == "https":
            return False
        if self._reception.in_body and self.cycle is self._answered:  # it will never be whole
            return False
        cycles = [self._answered, *(cycle for cycle, _ in self.pipeline)]
        if any(self._door.is_generation(cycle.scope) for cycle in cycles if cycle is not None):
            return False
        if not self._is_refused and self._reception.is_within:
            self._refuse(None)
        self._is_half_closed = True
        return True

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
            cause = error.__context__  # raised in one of its calls
            if isinstance(cause, RefusedError):
                self._refuse(cause.error)
            else:
                self._refuse(_no_memory() if isinstance(cause, MemoryError) else no_http("this is no HTTP request"))
            return
        if self._reception.is_head_too_large:
            self._refuse(too_many(self._limits))
        elif self._reception.is_body_too_large:
            self._refuse(too_large(self._limits))

    # ---- requests that are refused at the door ----------------------------------------------------------------------

    def _turn_away(self, data: bytes) -> bytes:
        """Answer requests that are refused at the door, and skip their bodies. What is left is for the parser, which
        knows nothing of them."""
        while data:
            if self._num_to_skip:
                skipped = min(self._num_to_skip, len(data))
                self._num_to_skip -= skipped
                self._reception.count(skipped)
                data = data[skipped:]
                if not self._num_to_skip:
                    self._await_next()
                continue
            is_between = not (self._is_answering or self._reception.is_within or self.pipeline)
            found = None
            if is_between and self._door.is_shut and not self.flow.write_paused:  # or what is said would pile up
                found = self._door.refuse(data)
            if found is None:
                break
            self._unset_keepalive_if_required()
            self.transport.write(found.answer)
            self._ending.watch_unread()
            if found.closes:
                self._reception.stop()
                self._ending.close()
                return b""
            self._num_to_skip = max(0, found.num_bytes - len(data))
            if self._num_to_skip:
                self._reception.begin_body()
            else:
                self._await_next()
            data = data[found.num_bytes :]
        return data

    def _await_next(self) -> None:
        """All of a request is here, and it is answered: the next may come."""
        self._reception.end()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # ---- requests that are read -------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        """Count bytes, and feed them to the parser."""
        self._reception.count(len(data))
        self._unset_keepalive_if_required()
        self.parse(data)

    def begin(self, *, keeps: bool, may_wait: bool) -> None:
        """The application begins; it reads the body as it comes. Behind another request it waits for its turn."""
        self.scope["extensions"] = {"aphrodite.part": self._part}  # type: ignore[dict-item]
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
            expect_100_continue=may_wait,
            keep_alive=keeps,
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Let the application answer."""
        assert isinstance(cycle, Cycle)
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def complete(self) -> None:
        """All of the request is here, and the application has yet to see that."""
        if self.cycle.response_complete:
            self._await_next()  # the clock of an idle connection was stopped by a body that nobody has waited for
            return
        if self._answered is self.cycle:
            self._door.let_in(self.cycle.scope)
        self._reception.end()

    # ---- the end of an answer ---------------------------------------------------------------------------------------

    @property
    def _is_answering(self) -> bool:
        return self._answered is not None and not self._answered.response_complete

    def on_response_complete(self) -> None:
        """All of an answer is written; the client has yet to take it. If it was asked to wait before it sends a body,
        nobody knows whether that still comes, and the next request could be taken for it: the connection ends."""
        assert self._answered is not None
        waits = (
            self._reception.in_body
            and self.cycle.response_complete
            and self.expect_100_continue
            and not self._reception.num_body_bytes
        )
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
        is_sending = (self._is_refused or self._reception.in_body or bool(self._ahead)) and not self._is_half_closed
        self._is_refused = True
        self._last_words = None
        self._ahead = b""
        self._unset_keepalive_if_required()
        self._reception.stop()
        self.pipeline.clear()
        if is_sending:
            self._ending.linger()
        else:
            self._ending.close()

    def shutdown(self) -> None:
        """The server ends: what is answered now is the last. A request that is not here yet comes too late."""
        if (
            self._reception.in_body
            and self._is_answering
            and self._answered is self.cycle
            and not self.cycle.response_started
        ):
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

    def _late(self) -> None:
        """What was to come has not come in time."""
        if self._is_refused:
            return
        if self._reception.is_within or self._is_answering:
            self._refuse(ApiError(408, "request_timeout", "the request was not received in time"))
        else:
            self._is_refused = True
            self._ending.close()  # it has said nothing: there is nothing to answer

    def _refuse(self, error: ApiError | None) -> None:
        """Nothing that comes is of use any more, and an error, if there is one, says why. It is said when all before it
        is answered, and not in the middle of an answer to the request itself. Then the connection ends."""
        self._is_refused = True
        self._ahead = b""
        self._reception.stop()
        if self._reception.in_body and self.cycle is self._answered:
            if not self._is_answering:
                error = None  # it was answered before its body was here
            elif error is not None and not self.cycle.response_started:
                self.cycle.refuse(error)
                return
            else:
                self._break_off()
                self._end()
                return
        elif self._reception.in_body:  # it would have been the next
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
        self._site.service.metrics.answered(error.status)
        if not self.has_begun:
            return unheard(self._site, error)
        return unheard(self._site, error, self.parser.get_method(), self.url, self.headers)

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
