"""Results on their way from the engine's thread to another, which waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from aphrodite.engine.backlog import Backlog
from aphrodite.engine.client import EngineClient, Failure, News
from aphrodite.engine.requests import Prepared
from aphrodite.engine.state import RequestState
from aphrodite.types.outputs import RequestOutput
from aphrodite.types.request import Sequence as EngineSequence


class Mailbox:
    """Between the engine's thread, which puts, and a caller's, which reads.

    eager  wake the reader whenever there is news; else when somebody has ended or may be ended by a stop string, so
           that the engine's thread is not held up by one that has nothing to do yet
    backlog  what a reader may leave unread; None: all of it, it waits for the end
    """

    def __init__(self, states: Sequence[RequestState], *, eager: bool, backlog: Backlog | None = None) -> None:
        self._states = states
        self._by_id = {name: state for state in states for name in state.request_ids}
        self._unfinished = set(map(id, states))
        self._eager = eager
        self._backlog = backlog
        self._changed = threading.Condition()
        self._news: dict[str, EngineSequence] = {}
        self._error: BaseException | None = None
        self._is_due = False

    def put(self, news: News) -> None:
        """On the engine's thread."""
        with self._changed:
            if isinstance(news, Failure):
                self._error = news.error
                self._is_due = True
            else:
                for seq in news:
                    self._news[seq.request.request_id] = seq
                    if self._backlog is not None:
                        self._backlog.grow()
                    if self._eager or seq.finish_reason is not None or seq.request.sampling.stop:
                        self._is_due = True
            if self._is_due:
                self._changed.notify()

    def read(self, timeout_s: float | None = None) -> list[str]:
        """Wait for news and take them. Gives the ids of sequences that their text has ended: they are to be aborted.
        Raises the engine's error."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._is_due:
                left = None if deadline is None else deadline - time.monotonic()
                if (left is not None and left <= 0) or not self._changed.wait(left):
                    break
            news, self._news, self._is_due = self._news, {}, False
            if self._backlog is not None:
                self._backlog.clear()
            error = self._error
        ended = []
        for name, seq in news.items():
            state = self._by_id[name]
            if state.read(seq):
                ended.append(name)
            if state.is_finished:
                self._unfinished.discard(id(state))
        if error is not None and not self.is_finished:
            raise error
        return ended

    @property
    def is_finished(self) -> bool:
        return not self._unfinished

    @property
    def num_output(self) -> int:
        """Tokens read so far."""
        return sum(state.num_output for state in self._states)

    @property
    def live(self) -> list[str]:
        """The ids of sequences that have not ended."""
        return [name for state in self._states for name in state.request_ids]


class Stream(Iterator[RequestOutput]):
    """One request's outputs as they come; it starts when it is made, and is held while its reader is far behind."""

    def __init__(self, client: EngineClient, state: RequestState, prepared: Prepared) -> None:
        self._client = client
        self._state = state
        self._mailbox = Mailbox([state], eager=True, backlog=Backlog(client, prepared.requests))
        self._is_over = False
        client.add(prepared.requests, self._mailbox.put)

    def __next__(self) -> RequestOutput:
        if self._is_over:
            raise StopIteration
        try:
            self._client.abort(self._mailbox.read())
        except BaseException:
            self.close()
            raise
        self._is_over = self._state.is_finished
        return self._state.output()

    def close(self) -> None:
        """Abort the request, if it has not ended."""
        self._is_over = True
        self._client.abort(self._mailbox.live)

    def __del__(self) -> None:
        self.close()
