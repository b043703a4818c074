"""Routes for the administrator: their own key, or their own socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aphrodite.engine.remote.supervisor import Supervisor
from aphrodite.server.dialect import Access, Call, Dialect, Json, Reply, Route
from aphrodite.server.errors import ApiError

_DONE: Mapping[str, Any] = {
    "type": "object",
    "properties": {"status": {"type": "string"}},
    "required": ["status"],
}


class Admin:
    """Pause and resume, abort, and forget cached blocks."""

    name = "admin"

    def __init__(self, words: Dialect, supervisor: Supervisor) -> None:
        self._words = words
        self._supervisor = supervisor

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        return tuple(
            Route("POST", path, handler, summary, _DONE, access=Access.ADMIN, statuses=(403, 503))
            for path, handler, summary in (
                ("/reset_prefix_cache", self._reset, "Forget the prefix cache"),
                ("/pause", self._pause, "Refuse new requests with 503; those under way go on"),
                ("/resume", self._resume, "Take requests on again"),
                ("/abort_requests", self._abort, "End all requests that are under way"),
            )
        )

    def error(self, error: ApiError, request_id: str) -> Json:
        """As its neighbour says it."""
        return self._words.error(error, request_id)

    def broken(self, error: ApiError, request_id: str) -> bytes:
        """As its neighbour says it."""
        return self._words.broken(error, request_id)

    async def _reset(self, call: Call) -> Reply:
        engine = self._supervisor.engine
        if engine is None:
            raise call.service.unavailable()
        engine.reset_prefix_cache()
        return Json({"status": "reset"})

    async def _pause(self, call: Call) -> Reply:
        call.service.is_paused = True
        return Json({"status": "paused"})

    async def _resume(self, call: Call) -> Reply:
        call.service.is_paused = False
        return Json({"status": "running"})

    async def _abort(self, call: Call) -> Reply:
        runs = list(call.service.runs)
        for run in runs:
            run.break_off(ApiError(503, "aborted", "the administrator has ended the request"))
        return Json({"status": "aborted", "requests": len(runs)})
