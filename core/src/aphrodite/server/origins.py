"""Pages of other origins: what lets those that are allowed ask, and read the answer (CORS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aphrodite.server.dialect import header


def origin_headers(allowed: Sequence[str], headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """What lets a page of an allowed origin read the answer; nothing for any other."""
    origin = header(headers, b"origin")
    if origin is None or not ("*" in allowed or origin in allowed):
        return {}
    return {"access-control-allow-origin": origin, "vary": "origin", "access-control-expose-headers": "*"}


def preflight_headers(scope: Mapping[str, Any]) -> dict[str, str] | None:
    """What a browser is told that asks, for a page of an allowed origin, whether it may ask; None: it asks for more."""
    if scope["method"] != "OPTIONS" or header(scope["headers"], b"access-control-request-method") is None:
        return None
    wanted = header(scope["headers"], b"access-control-request-headers")
    return {
        "access-control-allow-methods": "GET, POST, DELETE, HEAD, OPTIONS",
        "access-control-allow-headers": wanted or "authorization, content-type, x-api-key",
        "access-control-max-age": "600",
    }
