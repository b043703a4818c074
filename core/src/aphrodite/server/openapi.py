"""The OpenAPI document, written from the routes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from aphrodite._version import __version__
from aphrodite.server.dialect import Access, Dialect, Route
from aphrodite.server.errors import ApiError

_EVENT: Mapping[str, Any] = {
    "type": "object",
    "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
    "required": ["data"],
}
_REASONS: Mapping[int, str] = {
    400: "the request cannot be used",
    401: "there is no key, or a wrong one",
    403: "not for this key",
    404: "there is no such thing",
    405: "not with this method",
    408: "the request did not come in time",
    413: "the body is too large",
    415: "the body is in another form",
    429: "the queue is full",
    500: "a fault of the server",
    503: "not now",
    504: "it took too long",
}


def document(dialects: Sequence[Dialect]) -> dict[str, Any]:
    """All routes of these dialects."""
    paths: dict[str, dict[str, Any]] = {}
    for dialect in dialects:
        for route in dialect.routes():
            path = re.sub(r"\{(\w+)(:path)?\}", r"{\1}", route.path)
            paths.setdefault(path, {})[route.method.lower()] = _operation(route, dialect)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Aphrodite", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            }
        },
    }


def _operation(route: Route, dialect: Dialect) -> dict[str, Any]:
    kind = "text/plain" if route.answer.get("type") == "string" else "application/json"
    content: dict[str, Any] = {kind: {"schema": route.answer}}
    if route.frames is not None:
        content[route.frames] = {"schema": _EVENT if route.frames == "text/event-stream" else {"type": "string"}}
    answers: dict[str, Any] = {"200": {"description": "done", "content": content}}
    always = (400, 405) if route.body is not None else (405,)
    keyed = () if route.access == Access.OPEN else (401,)
    for status in sorted({*always, *keyed, *route.statuses}):
        schema = schema_of(dialect.error(ApiError(status, "code", "message"), "id").data)
        if status == 503 and route.access == Access.OPEN:  # a probe says how it is in one form
            schema = dict(route.answer)
        about = {"description": _REASONS.get(status, "an error"), "content": {"application/json": {"schema": schema}}}
        answers[str(status)] = about
    name = f"{route.method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', route.path)}"
    found: dict[str, Any] = {
        "summary": route.summary,
        "operationId": name,
        "tags": [dialect.name],
        "responses": answers,
    }
    parameters = re.findall(r"\{(\w+)", route.path)
    if parameters:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in parameters
        ]
    if route.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": route.body}}}
    if keyed:
        found["security"] = [{"bearer": []}, {"header": []}]
    return found


def schema_of(value: Any) -> dict[str, Any]:
    """The schema of plain data, from an example: errors are described as they are written, and not a second time."""
    if isinstance(value, Mapping):
        properties = {name: schema_of(item) for name, item in value.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}
    if isinstance(value, (list, tuple)):
        return {"type": "array", "items": schema_of(value[0])} if value else {"type": "array"}
    if value is None:
        return {"type": ["string", "null"]}
    kinds: Mapping[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}
    return {"type": kinds[type(value)]}
