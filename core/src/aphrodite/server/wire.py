"""Answers as bytes, of which no application knows: a connection says them by itself."""

from __future__ import annotations

from dataclasses import replace

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from aphrodite.server.dialect import Json, refusal
from aphrodite.server.errors import ApiError
from aphrodite.server.exchange import request_id_of
from aphrodite.server.gate import place_of
from aphrodite.server.head import Headers
from aphrodite.server.site import Site


def written(reply: Json, request_id: str, *, with_body: bool = True) -> bytes:
    """All of an answer.

    with_body  whether the body follows: to HEAD it does not
    """
    headers, body = reply.parts()
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"x-request-id": request_id, **headers}.items())
    return b"%s%s\r\n%s" % (STATUS_LINE[reply.status], lines.encode("latin-1"), body if with_body else b"")


def unheard(site: Site, error: ApiError, method: bytes = b"", url: bytes = b"", headers: Headers = ()) -> bytes:
    """An error of a request that gets to no application, in the words of whoever would have answered, as far as that is
    known. The connection ends with it."""
    path = url.partition(b"?")[0].decode("latin-1")
    dialect = place_of(site, {"path": path, "method": method.decode("ascii")}).dialect
    request_id = request_id_of(headers)
    reply = refusal(dialect, replace(error, closes=True), request_id)
    return written(reply, request_id, with_body=method != b"HEAD")
