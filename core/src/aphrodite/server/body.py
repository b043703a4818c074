"""Bodies of requests: read within limits, and JSON within limits."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from aphrodite.server.errors import ApiError, invalid
from aphrodite.server.no_number import find as find_no_number

_LONE = re.compile(rb"\\u[dD][89aAbBcCdDeEfF]")  # half of a pair; where both halves stand, nothing fails
_FORM = b"application/x-www-form-urlencoded"
_NOT_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS = np.array([(chr(byte) in "[{") - (chr(byte) in "]}") for byte in range(256)], np.int8)


@dataclass(frozen=True)
class Limits:
    """What a request may hold; more is refused before any work is done on it."""

    header_bytes: int = 16 << 10
    num_headers: int = 100
    url_bytes: int = 8 << 10
    num_query_fields: int = 64
    body_bytes: int = 2 << 20
    json_depth: int = 64
    json_containers: int = 1 << 17  # lists and objects: reading many takes the event loop's time
    num_prompts: int = 256
    num_messages: int = 4096
    num_tools: int = 128
    name_chars: int = 64  # of a tool
    head_s: float = 10.0  # a request's head must be here in that time
    body_s: float = 60.0  # and its body
    body_bytes_a_s: int = 1 << 10  # and no slower than that
    unread_s: float = 60.0  # in which a client must take some of an answer that is complete


async def read_body(
    scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]], limits: Limits, *, lenient: bool = False
) -> bytes:
    """A request's body. ApiError if it is compressed, too large, or not all here before the client left.

    lenient  whether what curl says of a body when told nothing will do for JSON. Never from a page in a browser: that
             could then ask without the browser's asking us first
    """
    headers = dict(scope["headers"])
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding not in (b"", b"identity"):
        raise ApiError(415, "unsupported_media_type", "content-encoding must be identity: send the body as it is")
    kind = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    is_form = lenient and kind == _FORM and b"origin" not in headers
    if kind != b"application/json" and not kind.endswith(b"+json") and not is_form:
        raise ApiError(415, "unsupported_media_type", "content-type must be application/json")
    if int(headers.get(b"content-length", b"0")) > limits.body_bytes:
        raise too_large(limits)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.refused":  # by the connection
            error: ApiError = message["error"]
            raise error
        if message["type"] != "http.request":
            raise ApiError(408, "request_timeout", "the request was not received", closes=True)
        parts.append(message["body"])
        size += len(message["body"])
        if size > limits.body_bytes:
            raise too_large(limits)
        if not message["more_body"]:
            return b"".join(parts)


def too_large(limits: Limits) -> ApiError:
    """A body over the limit."""
    return ApiError(
        413, "payload_too_large", f"the body must have at most {limits.body_bytes} bytes: shorten it", closes=True
    )


def decoded(body: bytes, limits: Limits) -> dict[str, Any]:
    """A JSON object. Of a key that stands there twice the last one counts. ApiError says what is wrong."""
    depth, count = _nesting(body, min(limits.json_depth, limits.json_containers))
    if depth > limits.json_depth:
        raise ApiError(400, "json_too_deep", f"the body must be nested at most {limits.json_depth} deep")
    if count > limits.json_containers:
        most = limits.json_containers
        raise ApiError(413, "payload_too_large", f"the body must hold at most {most} lists and objects, got {count}")
    try:
        body.decode("utf-8")
        found = msgspec.json.decode(body)
    except UnicodeDecodeError:
        raise ApiError(400, "invalid_unicode", "the body must be UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        if _LONE.search(body):
            raise ApiError(400, "invalid_unicode", "the body holds an escape that is no text") from None
        if (no_number := find_no_number(body)) is not None:
            path, value = no_number
            raise invalid(path or None, f"{path or 'the body'} must be a finite number, got {value}") from None
        raise ApiError(400, "invalid_json", f"the body must be JSON: {_reason(error)}") from None
    if not isinstance(found, dict):
        raise ApiError(400, "invalid_json", "the body must be a JSON object")
    return found


def _reason(error: Exception) -> str:
    """The library's own words, which quote nothing of the body."""
    return str(error).removeprefix("JSON is malformed: ") or type(error).__name__


def _nesting(body: bytes, enough: int) -> tuple[int, int]:
    """How deep brackets are nested outside of texts, and how many open there; found without a parser's stack, and
    without Python's pace. Up to `enough` of them nobody looks closer.

    What is no JSON may seem less deep than it is. The parser will not get as far.
    """
    count = body.count(b"[") + body.count(b"{")
    if count <= enough:
        return count, count
    marks = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_MARKS)
    found = np.frombuffer(marks, np.uint8)
    steps = _STEPS[found]
    steps[np.cumsum(found == ord('"'), dtype=np.uint8) & 1 == 1] = 0  # between quotes
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0)), int(np.count_nonzero(steps == 1))
