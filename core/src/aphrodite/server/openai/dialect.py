"""OpenAI's dialect: its routes, and errors in its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aphrodite.server.dialect import Json, Route, event
from aphrodite.server.errors import ApiError
from aphrodite.server.openai import schemas
from aphrodite.server.openai.chat import chat_complete
from aphrodite.server.openai.completions import complete
from aphrodite.server.openai.models import model, models
from aphrodite.server.openai.tokens import detokenize, tokenize

_EVENTS = "text/event-stream"


class OpenAI:
    """`/v1/...`, and the two routes for tokens beside it."""

    name = "openai"

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        busy = (404, 408, 413, 415, 429, 500, 503, 504)
        asks: Mapping[str, Any] = {"statuses": busy}
        return (
            Route("GET", "/v1/models", models, "List the model's names", schemas.MODELS),
            Route("GET", "/v1/models/{name:path}", model, "Describe one of them", schemas.MODEL, statuses=(404,)),
            Route(
                "POST",
                "/v1/completions",
                complete,
                "Continue prompts",
                schemas.COMPLETION,
                body=schemas.completion_request(),
                frames=_EVENTS,
                generates=True,
                **asks,
            ),
            Route(
                "POST",
                "/v1/chat/completions",
                chat_complete,
                "Answer a conversation",
                schemas.CHAT_COMPLETION,
                body=schemas.chat_request(),
                frames=_EVENTS,
                generates=True,
                **asks,
            ),
            *(
                Route("POST", f"{at}/tokenize", tokenize, "Tokens of a text", schemas.TOKENS, schemas.TOKENIZE, **asks)
                for at in ("", "/v1")
            ),
            *(
                Route(
                    "POST", f"{at}/detokenize", detokenize, "Text of tokens", schemas.TEXT, schemas.DETOKENIZE, **asks
                )
                for at in ("", "/v1")
            ),
        )

    def error(self, error: ApiError, request_id: str) -> Json:
        """`{"error": {...}}`."""
        return Json(_body(error), error.status)

    def broken(self, error: ApiError, request_id: str) -> bytes:
        """The error, and the end of the stream."""
        return event(_body(error)) + b"data: [DONE]\n\n"


def _body(error: ApiError) -> dict[str, Any]:
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
