"""What a parser says of a connection's bytes, within limits."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from aphrodite.server.body import Limits
from aphrodite.server.cycle import Cycle
from aphrodite.server.head import RefusedError, check, has_endless_body, target, too_long, too_many
from aphrodite.server.reception import Reception

_FRAMING = (b"content-length", b"transfer-encoding")  # headers that say where a request ends


class Parsing(HttpToolsProtocol):
    """uvicorn's protocol, whose parser is told of bytes here. Whoever extends it is told of requests.

    has_begun  whether a request is being received, by what the parser says
    """

    cycle: Cycle

    def __init__(
        self, config: Config, state: ServerState, loop: asyncio.AbstractEventLoop, limits: Limits, reception: Reception
    ) -> None:
        super().__init__(config, state, {}, loop)
        self.has_begun = False
        self._limits = limits
        self._reception = reception
        self._is_told_again = False  # whether the parser is told of a head for the second time

    @abstractmethod
    def begin(self, *, keeps: bool, may_wait: bool) -> None:
        """A head is here, and `scope` says what it does.

        keeps     whether another request may come after this one
        may_wait  whether the client may wait for a word before it sends the body
        """

    @abstractmethod
    def complete(self) -> None:
        """All of the request is here."""

    def parse(self, data: bytes) -> None:
        """Feed the parser, which raises RefusedError as the context of one of its own, HttpParserError.

        Where a request asks for another protocol, it leaves the rest to that. There is none here: what comes next is
        the request's body all the same, as its head says, or the next request.
        """
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
        self.has_begun = True
        self._num_sized = self._num_trailers = 0

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        if self._is_told_again:
            return
        super().on_url(url)
        if len(self.url) > self._limits.url_bytes:
            raise RefusedError(too_long(self._limits))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or one that comes after the body: by then all is settled that it could say."""
        if self._is_told_again:
            return
        if self._reception.in_body:
            self._num_trailers += 1
        else:
            super().on_header(name, value)
        self._num_sized += len(name) + len(value) + 4
        if (
            self._num_sized > self._limits.header_bytes
            or len(self.headers) + self._num_trailers > self._limits.num_headers
        ):
            raise RefusedError(too_many(self._limits))

    def on_headers_complete(self) -> None:
        """The head is here."""
        if self._is_told_again:
            return
        version = self.parser.get_http_version()
        check(version, self.headers)
        path, query = target(self.url)
        self.scope |= {
            "method": self.parser.get_method().decode("ascii"),
            "http_version": version,
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
        }
        self._reception.begin_body()
        is_new = version != "1.0"
        keeps = is_new and self.parser.should_keep_alive() and not has_endless_body(self.headers, self._limits)
        self.begin(keeps=keeps, may_wait=is_new and self.expect_100_continue)

    def on_message_complete(self) -> None:
        """All of the request is here, unless it is told again where that ends."""
        if self.parser.should_upgrade() and any(name in _FRAMING for name, _ in self.headers):
            return
        super().on_message_complete()
        self.has_begun = False
        self.complete()
