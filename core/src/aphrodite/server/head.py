"""What the head of a request must be, beyond what its parser sees to."""

from __future__ import annotations

from collections.abc import Sequence

import httptools

from aphrodite.server.body import Limits
from aphrodite.server.errors import ApiError

_VERSIONS = ("1.0", "1.1")
Headers = Sequence[tuple[bytes, bytes]]


class RefusedError(Exception):
    """Raised inside the parser, to get out of it."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def no_http(message: str) -> ApiError:
    """What came is not what is spoken here."""
    return ApiError(400, "invalid_http", message)


def too_long(limits: Limits) -> ApiError:
    """A target over the limit."""
    return ApiError(414, "uri_too_long", f"the target must have at most {limits.url_bytes} bytes")


def too_many(limits: Limits) -> ApiError:
    """Headers over the limits."""
    return ApiError(
        431,
        "headers_too_large",
        f"a request may have {limits.num_headers} headers of {limits.header_bytes} bytes together",
    )


def check(version: str, headers: Headers) -> None:
    """RefusedError for a version, or a way to say where the body ends, that others may read otherwise."""
    if version not in _VERSIONS:
        raise RefusedError(no_http("HTTP/1.1 and HTTP/1.0 are spoken here"))
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or version == "1.0"):
        raise RefusedError(no_http("transfer-encoding may be chunked, in HTTP/1.1, and nothing else"))


def target(url: bytes) -> tuple[bytes, bytes]:
    """Path and query of what is asked for. RefusedError for what is no path."""
    try:
        found = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        found = None
    if found is None or not found.path or not found.path.isascii():
        raise RefusedError(no_http("the target must be a path"))
    return found.path, found.query or b""


def has_endless_body(headers: Headers, limits: Limits) -> bool:
    """Whether a body is said to come that nobody will wait for the end of."""
    return any(int(value) > limits.body_bytes for name, value in headers if name == b"content-length")
