"""The routes of /v1/responses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aphrodite.engine.host import Model
from aphrodite.server.dialect import Call, Dialect, Json, Reply, Route, Stream, event
from aphrodite.server.errors import ApiError, invalid
from aphrodite.server.generation import Piece
from aphrodite.server.idle import others
from aphrodite.server.openai import fields
from aphrodite.server.openai.schemas import MESSAGE, object_of, parameter_schemas
from aphrodite.server.responses.answer import CANCELLED, Response
from aphrodite.server.responses.pages import page
from aphrodite.server.responses.request import Asked, read_request
from aphrodite.server.responses.store import Kept, Store
from aphrodite.server.run import Run
from aphrodite.types.shown import shown

_BUSY = (404, 408, 413, 415, 429, 500, 503, 504)
_TEXT: Mapping[str, Any] = {"type": "string"}
_RESPONSE = object_of(
    {
        "id": _TEXT,
        "object": {"const": "response"},
        "created_at": {"type": "integer"},
        "status": {"enum": ["in_progress", "completed", "incomplete", "failed", "cancelled"]},
        "model": _TEXT,
        "output": {"type": "array", "items": object_of({"id": _TEXT, "type": _TEXT}, "id", "type")},
        "usage": {"type": ["object", "null"]},
    },
    "id",
    "object",
    "created_at",
    "status",
    "model",
    "output",
)
_ITEMS = object_of(
    {
        "object": {"const": "list"},
        "data": {"type": "array", "items": object_of({"id": _TEXT, "type": _TEXT}, "id", "type")},
        "first_id": {"type": ["string", "null"]},
        "last_id": {"type": ["string", "null"]},
        "has_more": {"type": "boolean"},
    },
    "object",
    "data",
    "has_more",
)
_DELETED = object_of({"id": _TEXT, "object": _TEXT, "deleted": {"type": "boolean"}}, "id", "object", "deleted")


class Responses:
    """Answers that are kept. Errors are in OpenAI's words."""

    name = "responses"

    def __init__(self, words: Dialect, store: Store | None = None) -> None:
        self._words = words
        self._store = Store() if store is None else store

    def routes(self) -> Sequence[Route]:
        """What it answers."""
        item = {"anyOf": [MESSAGE, object_of({"type": _TEXT}, "type")]}
        body = object_of(
            {
                **parameter_schemas(),
                "model": {"type": ["string", "null"]},
                "input": {"anyOf": [_TEXT, {"type": "array", "items": item, "minItems": 1}]},
                "instructions": {"type": ["string", "null"]},
                "max_output_tokens": {"type": ["integer", "null"]},
                "previous_response_id": {"type": ["string", "null"]},
                "store": {"type": ["boolean", "null"]},
                "stream": {"type": ["boolean", "null"]},
            },
            "input",
        )
        one = "/v1/responses/{id}"
        return (
            Route(
                "POST",
                "/v1/responses",
                self._create,
                "Answer, and keep the answer",
                _RESPONSE,
                body=body,
                frames="text/event-stream",
                generates=True,
                statuses=_BUSY,
            ),
            Route("GET", one, self._get, "A response that was kept", _RESPONSE, statuses=(404,)),
            Route("GET", f"{one}/input_items", self._items, "What it was asked", _ITEMS, statuses=(404,)),
            Route("DELETE", one, self._delete, "Forget a response", _DELETED, statuses=(404,)),
            Route("POST", f"{one}/cancel", self._cancel, "End a response", _RESPONSE, statuses=(404,)),
        )

    def error(self, error: ApiError, request_id: str) -> Json:
        """As OpenAI's other routes."""
        return self._words.error(error, request_id)

    def broken(self, error: ApiError, request_id: str) -> bytes:
        """An error of the stream itself."""
        found = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
        return event({**found, "sequence_number": 0}, "error")

    async def _create(self, call: Call) -> Reply:
        body = call.json()
        call.service.check_model(body.get("model"))
        before = self._before(body, call)
        asked = read_request(body, call, before.messages if before is not None else ())
        model = call.service.model
        run = await call.start(asked.generation)
        response = Response(asked, call.service.settings.model_names[0])
        made = _Made(call, model, asked, run, response, [*_all_items(before), *asked.items])
        self._keep(made, run)
        if asked.stream:
            return Stream(self._frames(made))
        try:
            async for pieces in run:
                for piece in pieces:
                    await made.take(piece)
        except ApiError as error:
            response.fail(error)
            raise
        finally:
            run.close()
            self._keep(made, None)
        return Json(response.body())

    async def _frames(self, made: _Made) -> AsyncIterator[bytes]:
        is_first = True
        try:
            async for pieces in made.run:
                parts = made.response.begin() if is_first else []
                is_first = False
                for piece in pieces:
                    parts += await made.take(piece)
                yield b"".join(parts)
        except ApiError as error:
            frames = made.response.fail(error)
            if is_first:
                raise
            yield b"".join(frames)
        finally:
            made.run.close()
            self._keep(made, None)

    def _before(self, body: Mapping[str, Any], call: Call) -> Kept | None:
        """The response that a request goes on with."""
        name = fields.text(body, "previous_response_id")
        if name is None:
            return None
        found = self._store.get(name, call.tenant)
        if found is None:
            raise invalid("previous_response_id", f"previous_response_id: no response is {shown(name)}", "not_found")
        if found.run is not None:
            raise invalid("previous_response_id", f"previous_response_id: {shown(name)} is not done yet")
        return found

    def _keep(self, made: _Made, run: Run | None) -> None:
        response, asked = made.response, made.asked
        if run is None and response.status == "in_progress":  # the client has left
            response.cut_off(CANCELLED)
        if asked.store:
            messages = asked.messages if run is not None else response.messages()
            self._store.put(response.name, Kept(response.body(), messages, made.items, made.call.tenant, run))

    async def _get(self, call: Call) -> Reply:
        found = self._found(call)
        if call.query.get("stream", "false") != "false":
            raise invalid("stream", "stream is not supported here: a response is told as it comes, and kept as a whole")
        call.ignore(others(call.query, ("stream",)))
        return Json(found.body)

    async def _items(self, call: Call) -> Reply:
        return Json(page(self._found(call).items, call))

    async def _delete(self, call: Call) -> Reply:
        found = self._found(call)
        if found.run is not None:
            found.run.break_off(_cancelled())
        name = call.path_params["id"]
        self._store.drop(name)
        return Json({"id": name, "object": "response", "deleted": True})

    async def _cancel(self, call: Call) -> Reply:
        found = self._found(call)
        if found.run is None:
            return Json(found.body)
        found.run.break_off(_cancelled())
        return Json({**found.body, "status": "cancelled"})

    def _found(self, call: Call) -> Kept:
        name = call.path_params["id"]
        found = self._store.get(name, call.tenant)
        if found is None:
            raise ApiError(404, "not_found", f"there is no response {shown(name)}")
        return found


def _cancelled() -> ApiError:
    return ApiError(400, CANCELLED, "the response was cancelled")


@dataclass(frozen=True)
class _Made:
    """A response that is being made. items: all that it was asked."""

    call: Call
    model: Model
    asked: Asked
    run: Run
    response: Response
    items: Sequence[Mapping[str, Any]]

    async def take(self, piece: Piece) -> list[bytes]:
        """What comes next, as frames."""
        response, run = self.response, self.run
        frames = [frame for found in piece.events for frame in response.take(found)]
        if piece.finish_reason is not None:
            frames += response.finish(piece.finish_reason, run.usage, await self._num_reasoning())
        return frames

    async def _num_reasoning(self) -> int:
        """Tokens of what the model has thought; those that mark its ends are none."""
        text, tokenizer = self.response.reasoning, self.model.frontend.tokenizer
        if not text or tokenizer is None:
            return 0
        count = len(await self.call.service.offload(tokenizer.encode_bare, text))
        return min(count, self.run.usage.completion_tokens)


def _all_items(found: Kept | None) -> list[Mapping[str, Any]]:
    """What was asked and answered up to the end of a response."""
    return [] if found is None else [*found.items, *found.body["output"]]
