"""Sockets and the connections that come of them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from aphrodite.server.app import App
from aphrodite.server.door import Door
from aphrodite.server.protocol import protocol_factory
from aphrodite.server.site import Site
from aphrodite.server.sockets import BACKLOG

_KEEP_ALIVE_S = 30
_TAKING_S = 300.0  # in which a client must have taken the last of what a closing TLS connection still holds
_UNSENT_BYTES = 128 << 10  # that the system keeps of what a client does not take; by itself it would be megabytes


class Listener:
    """Serves a site on sockets, on the running event loop. It leaves signals alone and wakes for nothing but
    its connections."""

    def __init__(
        self,
        site: Site,
        sockets: list[socket.socket],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._sockets = sockets
        self._site = site
        self._tls = tls
        self._limits = site.settings.limits
        self._config = Config(
            App(site),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        self._config.load()
        self._state = ServerState()
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        make = protocol_factory(self._config, self._state, loop, self._site, Door(self._site))
        for sock in self._sockets:
            if sock.family != socket.AF_UNIX:  # connections inherit both
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
                # An event loop sees to it where a socket says that it is TCP; else a body waits 40 ms behind its head.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls: dict[str, Any] = {}
            if self._tls is not None:
                tls = {"ssl_handshake_timeout": self._limits.head_s, "ssl_shutdown_timeout": _TAKING_S}
            self._servers.append(await loop.create_server(make, sock=sock, ssl=self._tls, backlog=BACKLOG, **tls))

    async def stop(self, within_s: float) -> bool:
        """Accept no more, let what is under way end in that time, then cut it. Whether all has ended by itself."""
        for server in self._servers:
            server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks = list(self._state.tasks)
        left = set(tasks)
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=within_s)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1.0)
        for connection in list(self._state.connections):
            connection.transport.abort()
        return not left

    @property
    def num_connections(self) -> int:
        """Connections that are open."""
        return len(self._state.connections)
