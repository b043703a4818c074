"""A request and its answer on a connection: uvicorn's, which leaves the end of the connection to us."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from aphrodite.server.errors import ApiError

_LOG = logging.getLogger("aphrodite.server")


class Cycle(RequestResponseCycle):
    """Once the answer is written, `ends` says whether the connection is to end with it; whoever is told of that
    (`on_response`) ends it. What has no length goes out as it is to a client of HTTP/1.0, which knows no chunks."""

    ends = False
    _refusal: ApiError | None = None
    _is_unframed = False

    async def run_asgi(self, app: Any) -> None:
        """Let the application answer. What it has not answered when it returns, or is told to end, nobody will."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:  # the server ends
            self.disconnected = True
            self.transport.close()
        except Exception:
            _LOG.exception("a request could not be answered")
        finally:
            self.on_response = lambda: None
        if not self.response_complete and not self.disconnected:
            self.transport.close()

    def refuse(self, error: ApiError) -> None:
        """Nothing more of the body comes. Whoever waits for it is told why, and answers that."""
        self._refusal = replace(error, closes=True)
        self.keep_alive = self.waiting_for_100_continue = False
        self.message_event.set()

    async def receive(self) -> Any:
        """The next part of the body; `http.disconnect` when the client is gone, `http.refused` when it is no good."""
        message = await super().receive()
        if self._refusal is None or message["type"] != "http.request":
            return message
        error, self._refusal = self._refusal, None
        return {"type": "http.refused", "error": error}

    async def send(self, message: Any) -> None:
        """Write a part of the answer."""
        if message["type"] == "http.response.start":
            has_length = any(name == b"content-length" for name, _ in message["headers"])
            if self.is_old and not has_length:
                self._is_unframed, self.chunked_encoding = True, False
        else:
            if self._is_unframed and self.scope["method"] != "HEAD":
                self.expected_content_length = len(message["body"])
            if not message["more_body"]:
                self.ends, self.keep_alive = not self.keep_alive, True
        await super().send(message)

    @property
    def is_old(self) -> bool:
        """Whether the client speaks HTTP/1.0."""
        return self.scope["http_version"] == "1.0"
