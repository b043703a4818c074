"""An EngineClient that gives what it is told to: tokens, errors, pauses. Its books show what is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from aphrodite.engine.client import Failure, Sink
from aphrodite.types.request import Request, TokenLogprobs
from aphrodite.types.request import Sequence as EngineSequence

Script = Callable[[Request], Iterable["int | float | str | BaseException"]]
"""What a request gets: tokens; seconds to wait, and until the server has dealt with all that came before; "stop",
"length" or "error" to end; an exception to fail with."""


def echo(request: Request) -> Iterable[int | float | str | BaseException]:
    """The prompt's tokens over and over, as many as were asked for."""
    count = request.max_total_tokens - len(request.prompt_token_ids)
    for place in range(count):
        yield request.prompt_token_ids[place % len(request.prompt_token_ids)]
    yield "length"


@dataclass
class ScriptedEngine:
    """Each request runs on a thread of its own."""

    script: Script = echo
    added: list[Request] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    live: dict[str, EngineSequence] = field(default_factory=dict)
    closed: bool = False
    settle: Callable[[], None] = lambda: None  # returns when the server has dealt with all that it was told
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._released = threading.Condition(self._lock)

    def add(self, requests: Sequence[Request], sink: Sink) -> None:
        with self._lock:
            for request in requests:
                self.added.append(request)
                seq = EngineSequence(request, list(request.prompt_token_ids), [])
                seq.times.arrival_s = time.monotonic()
                seq.num_cached_tokens = 0
                self.live[request.request_id] = seq
                threading.Thread(target=self._run, args=(seq, sink), daemon=True).start()

    def _run(self, seq: EngineSequence, sink: Sink) -> None:
        name = seq.request.request_id
        wanted = seq.request.sampling
        if wanted.prompt_logprobs is not None:
            seq.prompt_logprobs = [TokenLogprobs(t, -0.5, 1, ((t, -0.5),)) for t in seq.request.prompt_token_ids[1:]]
        for item in self.script(seq.request):
            if isinstance(item, float):
                time.sleep(item)
                self.settle()
                if name not in self.live:
                    return
                continue
            with self._lock:
                self._released.wait_for(lambda: name not in self.held)
                if name not in self.live:
                    return
                if isinstance(item, int):
                    if wanted.logprobs is not None:
                        seq.logprobs.append(TokenLogprobs(item, -0.25, 1, ((item, -0.25), (item + 1, -2.0))))
                    seq.tokens.append(item)
                    sink([seq])
                elif isinstance(item, str):
                    del self.live[name]
                    seq.finish_reason = item
                    sink([seq])
                    return
                else:
                    del self.live[name]
                    sink(Failure(item, (name,)))
                    return

    def abort(self, request_ids: Iterable[str]) -> None:
        with self._lock:
            request_ids = list(request_ids)
            for name in request_ids:
                if name in self.live:
                    self.aborted.append(name)
                    seq = self.live.pop(name)
                    seq.finish_reason = "abort"
            self.held.difference_update(request_ids)
            self._released.notify_all()

    def hold(self, request_ids: Iterable[str]) -> None:
        with self._lock:
            self.held.update(self.live.keys() & set(request_ids))

    def release(self, request_ids: Iterable[str]) -> None:
        with self._lock:
            self.held.difference_update(request_ids)
            self._released.notify_all()

    def close(self) -> None:
        self.closed = True
