"""A server with room for nobody else, and requests to it in bytes."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from aphrodite.server.ending import Ending
from aphrodite.server.protocol import Protocol
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


class Taker:
    """A client that after each look of the server at what it has left takes what the system holds of it, so often; then
    nothing. However long either of them stands still, something was taken between one look and the next."""

    def __init__(self, sock: socket.socket, num_times: int) -> None:
        self.taken = b""
        self.is_cut = False
        self._sock = sock
        self.num_left = num_times

    def sip(self) -> None:
        """What has come, if anything."""
        if select.select([self._sock], [], [], 0)[0]:
            self.taken += self._sock.recv(1 << 16)

    def take(self) -> None:
        """All that has come, if it is one of those times."""
        if self.num_left:
            self.num_left -= 1
            self.taken += self._sock.recv(1 << 16)
            while select.select([self._sock], [], [], 0.05)[0] and (part := self._sock.recv(1 << 16)):
                self.taken += part


@contextmanager
def looked_at(
    patch: pytest.MonkeyPatch, sock: socket.socket, num_times: int, *, num_answers: int = 1, and_then: bool = True
) -> Iterator[Taker]:
    """The only client whose answers are larger than what the system keeps for it.

    num_answers  so many are written before the server looks; until then the client takes what comes
    and_then     whether the server goes on to look when the client takes nothing more"""
    taker = Taker(sock, num_times + 1)
    complete, check, lost = Protocol.on_response_complete, Ending._check_unread, Protocol.connection_lost
    count = 0

    def completing(self: Protocol) -> None:
        nonlocal count
        complete(self)
        count += 1
        if count == num_answers:
            taker.take()

    def checking(self: Ending, before: int) -> None:
        if count < num_answers:
            taker.sip()
            self._unread_timer = self._loop.call_later(0.01, self._check_unread, before)
        elif taker.num_left or and_then:
            check(self, before)
            taker.take()

    def losing(self: Protocol, error: Exception | None) -> None:
        lost(self, error)
        taker.is_cut = True

    with patch.context() as patched:
        patched.setattr(Protocol, "on_response_complete", completing)
        patched.setattr(Ending, "_check_unread", checking)
        patched.setattr(Protocol, "connection_lost", losing)
        yield taker


def received(sock: socket.socket, until: bytes | None = None) -> bytes:
    """What comes, up to a text or the end."""
    found = b""
    while (until is None or until not in found) and (part := sock.recv(65536)):
        found += part
    return found
