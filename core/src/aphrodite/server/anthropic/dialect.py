"""Anthropic's dialect: its routes, and errors in its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aphrodite.server.anthropic import answer, request, schemas
from aphrodite.server.dialect import Call, Json, Reply, Route, Stream, event
from aphrodite.server.errors import ApiError

_OVERLOADED = 529  # what its clients know in place of 503
_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Anthropic:
    """`/v1/messages`, and the count of tokens beside it."""

    name = "anthropic"

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        return (
            Route(
                "POST",
                "/v1/messages",
                _messages,
                "Answer a conversation",
                schemas.MESSAGE,
                body=schemas.request(),
                frames="text/event-stream",
                generates=True,
                statuses=(404, 408, 413, 415, 429, 500, 504, _OVERLOADED),
            ),
            Route(
                "POST",
                "/v1/messages/count_tokens",
                _count,
                "Count a conversation's tokens",
                schemas.COUNT,
                body=schemas.count_request(),
                statuses=(404, 408, 413, 415, 500, _OVERLOADED),
            ),
        )

    def error(self, error: ApiError, request_id: str) -> Json:
        """`{"type": "error", "error": {...}}`."""
        status = _OVERLOADED if error.status == 503 else error.status
        return Json(_body(error, request_id), status, _named(request_id))

    def broken(self, error: ApiError, request_id: str) -> bytes:
        """The error as the stream's last event."""
        return event(_body(error, request_id), "error")


async def _messages(call: Call) -> Reply:
    body = call.json()
    call.service.check_model(body.get("model"))
    asked = request.asked(body, call)
    run = await call.start(asked.generation)
    model = call.service.settings.model_names[0]
    written = answer.Answer(run, model, asked.thinks, asked.generation.sampling.max_tokens)
    if asked.streams:
        return Stream(written.frames(), _named(call.request_id))
    return Json(await written.whole(), headers=_named(call.request_id))


async def _count(call: Call) -> Reply:
    body = call.json()
    service = call.service
    service.check_model(body.get("model"))
    chat, ignored = request.counted(body, call)
    call.ignore(ignored)
    ids = await service.offload(service.encode, service.model, chat)
    return Json({"input_tokens": len(ids)}, headers=_named(call.request_id))


def _named(request_id: str) -> Mapping[str, str]:
    """The header in which its clients look for a request's id."""
    return {"request-id": request_id}


def _body(error: ApiError, request_id: str) -> dict[str, Any]:
    kind = _TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}
