"""Ollama's dialect: its routes, and errors in its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aphrodite.server.dialect import Call, Json, Reply, Route, Stream
from aphrodite.server.errors import ApiError
from aphrodite.server.ollama import answer, models, request, schemas
from aphrodite.server.ollama.request import Asked

_VERSION = "0.12.0"  # of Ollama's API that this is; clients go by it
_LINES = "application/x-ndjson"
_BUSY = (404, 408, 413, 415, 429, 500, 503, 504)


class Ollama:
    """`/api/chat` and what is beside it."""

    name = "ollama"

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        return (
            Route("HEAD", "/", _alive, "Whether anybody is here", {"type": "string"}),
            Route("GET", "/", _greeting, "Who is here, for people too", {"type": "string"}),
            Route("GET", "/api/version", _version, "The API's version", schemas.VERSION),
            Route("GET", "/api/tags", models.tags, "List the model's names", schemas.MODELS, statuses=(500,)),
            Route("GET", "/api/ps", models.running, "List what is loaded", schemas.MODELS, statuses=(500,)),
            Route(
                "POST",
                "/api/show",
                models.show,
                "Describe the model",
                schemas.SHOWN,
                schemas.NAME,
                statuses=_BUSY,
                lenient=True,
            ),
            Route(
                "POST",
                "/api/generate",
                _generate,
                "Continue a prompt",
                schemas.GENERATED,
                body=schemas.generate_request(),
                frames=_LINES,
                generates=True,
                loads=True,
                statuses=_BUSY,
                lenient=True,
            ),
            Route(
                "POST",
                "/api/chat",
                _chat,
                "Answer a conversation",
                schemas.ANSWERED,
                body=schemas.chat_request(),
                frames=_LINES,
                generates=True,
                loads=True,
                statuses=_BUSY,
                lenient=True,
            ),
        )

    def error(self, error: ApiError, request_id: str) -> Json:
        """`{"error": "..."}`."""
        return Json({"error": error.message}, error.status)

    def broken(self, error: ApiError, request_id: str) -> bytes:
        """The error as the stream's last line."""
        return answer.line({"error": error.message})


async def _alive(call: Call) -> Reply:
    return Json(b"", content_type="text/plain")


async def _greeting(call: Call) -> Reply:
    return Json(b"Aphrodite is running\n", content_type="text/plain")


async def _version(call: Call) -> Reply:
    return Json({"version": _VERSION})


async def _generate(call: Call) -> Reply:
    return await _answered(call, request.generate, answer.generated)


async def _chat(call: Call) -> Reply:
    return await _answered(call, request.chat, answer.message)


async def _answered(call: Call, read: Callable[[Mapping[str, Any], Call], Asked], shape: answer.Shape) -> Reply:
    body = call.json()
    name = models.served(call, body.get("model"))
    asked = read(body, call)
    if asked.generation is None:
        call.ignore(asked.ignored)
        call.service.check_answers()
        return Json(answer.loaded(name, shape))
    run = await call.start(asked.generation)
    if asked.streams:
        return Stream(answer.lines(run, name, shape), content_type=_LINES)
    return Json(await answer.whole(run, name, shape))
