"""A server on a thread of the tests' own process, over a scripted engine."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aphrodite.engine.frontend import Frontend
from aphrodite.engine.host import FixedHost, Health, Host, Model
from aphrodite.server.body import Limits
from aphrodite.server.dialects import apis
from aphrodite.server.keys import Keys
from aphrodite.server.listener import Listener
from aphrodite.server.logs import AccessLog
from aphrodite.server.metrics import Metrics
from aphrodite.server.operations import Operations
from aphrodite.server.service import Service, ServiceSettings
from aphrodite.server.site import Site, SiteSettings
from aphrodite.types.model_card import ModelCard
from tests.server.engine import ScriptedEngine

NAME = "tiny"


@dataclass
class Serving:
    """A server that runs, and all its parts."""

    port: int
    service: Service
    site: Site
    engine: ScriptedEngine
    loop: asyncio.AbstractEventLoop
    handled: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def raw(self, data: bytes, timeout_s: float = 20.0) -> bytes:
        """What comes back for these bytes, until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as sock:
            sock.sendall(data)
            found = b""
            while part := sock.recv(65536):
                found += part
            return found


def card(folder: Path, **changes: Any) -> ModelCard:
    """What the server knows of a tiny model."""
    found: dict[str, Any] = {
        "name": NAME,
        "folder": str(folder),
        "vocab_size": 320,
        "max_model_len": 512,
        "end_ids": frozenset({2}),
        "defaults": {},
        "seed": 0,
    }
    return ModelCard(**{**found, **changes})


def settled(loop: asyncio.AbstractEventLoop) -> None:
    """Wait until a loop has gone round so often that whatever waited for its turn has had it."""
    done = threading.Event()

    def turn(left: int) -> None:
        if left:
            loop.call_soon(turn, left - 1)
        else:
            done.set()

    with suppress(RuntimeError):  # it has ended
        loop.call_soon_threadsafe(turn, 10)
        done.wait(20)


@contextmanager
def serving(
    folder: Path,
    engine: ScriptedEngine | None = None,
    *,
    host: Host | None = None,
    keys: tuple[str, ...] = (),
    admin_keys: tuple[str, ...] = (),
    limits: Limits | None = None,
    max_sequences: int = 256,
    app: dict[str, Any] | None = None,
    tls: ssl.SSLContext | None = None,
    **settings: Any,
) -> Iterator[Serving]:
    """Serve a folder's tokenizer over an engine."""
    engine = engine or ScriptedEngine()
    host = host or FixedHost(Model(engine, Frontend.of(card(folder))), Health.READY)
    begun = threading.Event()
    found: list[Serving] = []
    end: list[asyncio.Event] = []

    async def serve() -> None:
        metrics = Metrics(NAME)
        service = Service(host, ServiceSettings((NAME,), max_sequences, **settings), metrics)
        spoken = apis()
        made = Site(
            service,
            (*spoken, Operations(spoken[0], spoken)),
            SiteSettings(Keys(keys), Keys(admin_keys), limits or Limits(), **(app or {})),
            AccessLog(),
        )
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        listener = Listener(made, [sock], tls=tls)
        await listener.start()
        end.append(asyncio.Event())
        loop = asyncio.get_running_loop()
        engine.settle = lambda: settled(loop)
        found.append(Serving(sock.getsockname()[1], service, made, engine, loop))
        begun.set()
        await end[0].wait()
        await listener.stop(0.1)
        service.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert begun.wait(20), "the server did not start"
    try:
        yield found[0]
    finally:
        found[0].loop.call_soon_threadsafe(end[0].set)
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"
