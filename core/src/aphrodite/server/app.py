"""The ASGI application."""

from __future__ import annotations

from aphrodite.server.exchange import Exchange, Receive, Scope, Send
from aphrodite.server.site import Site


class App:
    """An exchange for each request to a site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await Exchange(self._site, scope, receive, send).run()
        else:
            await _refuse_other(scope, receive, send)


async def _refuse_other(scope: Scope, receive: Receive, send: Send) -> None:
    """What is no HTTP request."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
    elif scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
