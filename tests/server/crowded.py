"""A server with room for nobody else, and requests to it in bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.server.engine import ScriptedEngine
from tests.server.serving import Serving, serving

POST = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"


def slowly(request: Any) -> Iterator[int | float | str]:
    """A token every 20 ms, for as long as somebody wants them."""
    while True:
        yield request.prompt_token_ids[-1]
        yield 0.02


@contextmanager
def full(folder: Path, **settings: Any) -> Iterator[Serving]:
    """A server with room for nobody else."""
    with (
        serving(folder, ScriptedEngine(slowly), max_sequences=1, **settings) as found,
        httpx.stream("POST", f"{found.url}/v1/completions", json={"prompt": "a", "stream": True}) as held,
    ):
        parts = held.iter_bytes()
        next(parts)
        yield found


def received(sock: socket.socket, until: bytes | None = None) -> bytes:
    """What comes, up to a text or the end."""
    found = b""
    while (until is None or until not in found) and (part := sock.recv(65536)):
        found += part
    return found
