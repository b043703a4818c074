"""Results on their way from an engine to the tasks of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from aphrodite.engine.backlog import Backlog
from aphrodite.engine.client import EngineClient, Failure, News
from aphrodite.engine.requests import Prepared
from aphrodite.engine.state import RequestState
from aphrodite.types.outputs import RequestOutput
from aphrodite.types.request import Request
from aphrodite.types.request import Sequence as EngineSequence


class Receiver(Protocol):
    """Is told of sequences on the event loop."""

    def put(self, name: str, seq: EngineSequence) -> None:
        """There is news of a sequence."""

    def fail(self, name: str, error: BaseException) -> None:
        """Nothing more comes of a sequence, and what it had got is of no use."""


class Desk:
    """Hands out an engine's news on one event loop: all of a step in one call, however many wait."""

    def __init__(self, client: EngineClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._receivers: dict[str, Receiver] = {}  # by the engine's ids of sequences that have not ended

    def open(self, prepared: Prepared, state: RequestState) -> Ticket:
        """Give a request to the engine. UsageError if that is closed."""
        ticket = Ticket(self._client, state, prepared.requests)
        self.take_on(prepared.requests, ticket)
        return ticket

    def take_on(self, requests: Sequence[Request], receiver: Receiver) -> None:
        """Give requests to the engine, all or none. UsageError if that is closed."""
        self._client.add(requests, self._put)
        self._receivers.update((request.request_id, receiver) for request in requests)

    def _put(self, news: News) -> None:
        """On the engine's thread."""
        self._loop.call_soon_threadsafe(self._deliver, news)

    def _deliver(self, news: News) -> None:
        if isinstance(news, Failure):
            for name in news.request_ids:
                receiver = self._receivers.pop(name, None)
                if receiver is not None:
                    receiver.fail(name, news.error)
            return
        for seq in news:
            name = seq.request.request_id
            receiver = self._receivers.get(name)
            if receiver is not None:
                receiver.put(name, seq)
                if seq.finish_reason is not None:
                    del self._receivers[name]


class Ticket:
    """One request of an event loop: waits for its news, and reads them when it is asked to. If it is not asked for
    long, the engine holds the request until it is."""

    def __init__(self, client: EngineClient, state: RequestState, requests: Sequence[Request]) -> None:
        self.state = state
        self._client = client
        self._backlog = Backlog(client, requests)
        self._news: dict[str, EngineSequence] = {}
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    def put(self, name: str, seq: EngineSequence) -> None:
        """There is news of a sequence."""
        self._news[name] = seq
        self._backlog.grow()
        self._changed.set()

    def fail(self, name: str, error: BaseException) -> None:
        """Nothing more comes of a sequence, and what it had got is of no use."""
        self._news.pop(name, None)
        self._error = error
        self._changed.set()

    async def read(self) -> RequestState:
        """Wait for news and read them into the state. Raises the engine's error."""
        if not self.state.is_finished:
            await self._changed.wait()
        self._changed.clear()
        news, self._news = self._news, {}
        self._backlog.clear()
        self._client.abort([name for name, seq in news.items() if self.state.read(seq)])
        if self._error is not None and not self.state.is_finished:
            raise self._error
        return self.state

    def abort(self) -> None:
        """End the request, if it has not ended. May be called from any thread."""
        self._client.abort(self.state.request_ids)


class OutputStream(AsyncIterator[RequestOutput]):
    """One request's outputs as they come.

    begin  gives the request to the engine; awaited at the first step
    """

    def __init__(self, begin: Callable[[], Awaitable[Ticket]]) -> None:
        self._begin: Callable[[], Awaitable[Ticket]] | None = begin
        self._ticket: Ticket | None = None
        self.is_over = False

    async def __anext__(self) -> RequestOutput:
        if self.is_over:
            raise StopAsyncIteration
        try:
            if self._ticket is None:
                assert self._begin is not None, "a stream is read by one task"
                begin, self._begin = self._begin, None
                self._ticket = await begin()
            state = await self._ticket.read()
        except BaseException:
            await self.aclose()
            raise
        self.is_over = state.is_finished
        return state.output()

    def abort(self) -> None:
        """End the request: what there is by then is its last output. One that has not begun never does."""
        if self._ticket is None:
            self.is_over = True
        else:
            self._ticket.abort()

    async def aclose(self) -> None:
        """Abort the request, if it has not ended; nothing more comes out."""
        self.is_over = True
        if self._ticket is not None:
            self._ticket.abort()

    def __del__(self) -> None:
        if self._ticket is not None and not self.is_over:
            self._ticket.abort()
