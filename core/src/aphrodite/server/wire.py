"""Answers as bytes, of which no application knows: a connection says them by itself."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from aphrodite.server.dialect import Json


def written(reply: Json, request_id: str, *, with_body: bool = True) -> bytes:
    """All of an answer.

    with_body  whether the body follows: to HEAD it does not
    """
    headers, body = reply.parts()
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"x-request-id": request_id, **headers}.items())
    return b"%s%s\r\n%s" % (STATUS_LINE[reply.status], lines.encode("latin-1"), body if with_body else b"")
