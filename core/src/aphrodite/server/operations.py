"""Routes for those who run the server: is it alive, is it ready, what does it do, and for the administrator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aphrodite._version import __version__
from aphrodite.engine.host import Health
from aphrodite.server import metrics
from aphrodite.server.dialect import Access, Call, Dialect, Json, Reply, Route
from aphrodite.server.errors import ApiError
from aphrodite.server.openapi import document

_VERSION: Mapping[str, Any] = {
    "type": "object",
    "properties": {"version": {"type": "string"}},
    "required": ["version"],
}
_DOCUMENT: Mapping[str, Any] = {
    "type": "object",
    "properties": {"openapi": {"type": "string"}, "info": {"type": "object"}, "paths": {"type": "object"}},
    "required": ["openapi", "info", "paths"],
}
_STATE: Mapping[str, Any] = {
    "type": "object",
    "properties": {"status": {"type": "string"}, "restarts": {"type": "integer"}},
    "required": ["status"],
}


class Operations:
    """The server itself. Its errors are in the words of the dialect beside it.

    others  all other dialects, for the document that describes them
    """

    name = "operations"

    def __init__(self, words: Dialect, others: Sequence[Dialect]) -> None:
        self._words = words
        self._others = others

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        text: Mapping[str, Any] = {"type": "string"}
        return (
            Route(
                "GET", "/health", _health, "Whether process and engine live", _STATE, None, None, Access.OPEN, (503,)
            ),
            Route("GET", "/ready", _ready, "Whether the model answers", _STATE, None, None, Access.OPEN, (503,)),
            Route("GET", "/version", _version, "The server's version", _VERSION),
            Route("GET", "/metrics", _metrics, "Metrics for Prometheus", text),
            Route("GET", "/openapi.json", self._document, "This document", _DOCUMENT),
        )

    def error(self, error: ApiError, request_id: str) -> Json:
        """As its neighbour says it."""
        return self._words.error(error, request_id)

    def broken(self, error: ApiError, request_id: str) -> bytes:
        """As its neighbour says it."""
        return self._words.broken(error, request_id)

    async def _document(self, call: Call) -> Reply:
        return Json(document((*self._others, self)))


async def _health(call: Call) -> Reply:
    """200 while there is hope: it loads, runs or drains. 503 when the engine is lost, or its steps have stopped."""
    host = call.service.host
    health = host.health
    found: dict[str, Any] = {"status": health.value, "restarts": host.num_restarts}
    if host.last_failure is not None:
        found["last_failure"] = call.service.translate(host.last_failure).message
    if call.service.is_draining:
        found["status"] = "draining"
    return Json(found, 200 if health in (Health.LOADING, Health.READY) else 503)


async def _ready(call: Call) -> Reply:
    """200 when a request would be taken on now."""
    service = call.service
    if service.is_draining:
        return Json({"status": "draining"}, 503, {"retry-after": "10"})
    health = service.host.health
    if health is not Health.READY:
        return Json({"status": health.value}, 503, {"retry-after": "5"})
    return Json({"status": "ready"})


async def _version(call: Call) -> Reply:
    return Json({"version": __version__})


async def _metrics(call: Call) -> Reply:
    return Json(call.service.metrics.text(), content_type=metrics.CONTENT_TYPE)
