"""The server's side of an engine in another process: an EngineClient on an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import msgspec

from aphrodite.engine.client import Failure, Sink
from aphrodite.engine.remote import messages
from aphrodite.engine.remote.messages import (
    HEAD,
    Abort,
    Add,
    Drawn,
    Dying,
    Failed,
    FromEngine,
    Hold,
    Loading,
    Pulse,
    Ready,
    RefuseWaiting,
    Release,
    ResetPrefixCache,
    ToEngine,
    Update,
    Updates,
)
from aphrodite.errors import AphroditeError, EngineDied, UsageError
from aphrodite.types.model_card import ModelCard
from aphrodite.types.request import Request, TokenLogprobs
from aphrodite.types.request import Sequence as EngineSequence
from aphrodite.types.stats import EngineStats


class RemoteEngine(asyncio.Protocol):
    """Mirrors the engine's sequences: each grows here as its updates come, and sinks read it as they read the original.

        step's Updates ── one message ── mirrors grow ── each sink once

    Lives on one event loop; `add`, `abort`, `hold` and `release` may be called from any thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_ready: Callable[[Ready], None],
        on_loading: Callable[[str], None] = lambda label: None,
        on_drawn: Callable[[ModelCard], None] = lambda card: None,
    ) -> None:
        self.stats = EngineStats()
        self.last_pulse_s = time.monotonic()
        self.dying: Dying | None = None
        self.lost: asyncio.Future[None] = loop.create_future()  # done when the other end is gone
        self._loop = loop
        self._on_ready = on_ready
        self._on_loading = on_loading
        self._on_drawn = on_drawn
        self._transport: asyncio.Transport | None = None
        self._live: dict[str, tuple[EngineSequence, Sink]] = {}
        self._buffer = bytearray()
        self._error: BaseException | None = None

    # ---- the EngineClient -------------------------------------------------------------------------------------------

    def add(self, requests: Sequence[Request], sink: Sink) -> None:
        """Queue requests. EngineDied once the engine is lost, UsageError once it is closed."""
        if self._error is not None:
            raise self._error
        now = time.monotonic()
        for request in requests:
            seq = EngineSequence(request, list(request.prompt_token_ids), [])
            seq.times.arrival_s = now
            self._live[request.request_id] = (seq, sink)
        self._send(Add([messages.wired(request) for request in requests]))

    def abort(self, request_ids: Iterable[str]) -> None:
        """End requests before the engine's next step."""
        self._send_live(Abort, request_ids)

    def hold(self, request_ids: Iterable[str]) -> None:
        """Spend no step on requests until they are released."""
        self._send_live(Hold, request_ids)

    def release(self, request_ids: Iterable[str]) -> None:
        """Let held requests go on."""
        self._send_live(Release, request_ids)

    def _send_live(self, kind: type[Abort] | type[Hold] | type[Release], request_ids: Iterable[str]) -> None:
        """Send a message about those of these requests that have not ended."""
        ids = [name for name in request_ids if name in self._live]
        if ids and self._error is None:
            self._send(kind(ids))

    def reset_prefix_cache(self) -> None:
        """Forget cached blocks, after the step that is running."""
        self._send(ResetPrefixCache())

    def refuse_waiting(self, groups: Iterable[Iterable[str]]) -> None:
        """Abort the groups of requests of none of which anything has been computed yet."""
        self._send(RefuseWaiting([list(group) for group in groups]))

    def close(self) -> None:
        """Let go of the engine, which ends by that."""
        if self._transport is not None:
            self._transport.close()
        self.fail(UsageError("the engine was closed while the request ran", subject="close"))

    @property
    def num_live(self) -> int:
        """Requests that have not ended."""
        return len(self._live)

    def fail(self, error: BaseException) -> None:
        """End every request with this error, and refuse those to come."""
        if self._error is None:
            self._error = error
        live, self._live = self._live, {}
        by_sink: dict[Sink, list[str]] = {}
        for name, (_, sink) in live.items():
            by_sink.setdefault(sink, []).append(name)
        for sink, names in by_sink.items():
            sink(Failure(error, tuple(names)))

    # ---- the transport ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self._transport = cast(asyncio.Transport, transport)

    def send(self, message: ToEngine) -> None:
        """Send a message, from the event loop's thread."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(messages.packed(message))

    def _send(self, message: ToEngine) -> None:
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self.send(message)
        else:
            self._loop.call_soon_threadsafe(self.send, message)

    def data_received(self, data: bytes) -> None:
        """Bytes of messages, cut anywhere."""
        self._buffer += data
        start, size = 0, len(self._buffer)
        view = memoryview(self._buffer)
        try:
            while size - start >= HEAD.size:
                end = start + HEAD.size + messages.length_of(view[start : start + HEAD.size])
                if end > size:
                    break
                self._handle(messages.from_engine(view[start + HEAD.size : end]))
                start = end
        except (msgspec.DecodeError, ValueError) as error:
            self.fail(EngineDied(f"the engine sent what is no message: {error}"))
            if self._transport is not None:
                self._transport.abort()
        finally:
            view.release()
        del self._buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """The engine is gone. Whoever started it knows why, and fails what is open."""
        if not self.lost.done():
            self.lost.set_result(None)

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _handle(self, message: FromEngine) -> None:
        match message:
            case Updates(items):
                self._update(items)
            case Failed(request_ids, error):
                self._fail_some(request_ids, messages.exception_of(error))
            case Pulse(stats):
                self.stats = stats
                self.last_pulse_s = time.monotonic()
            case Loading(label):
                self._on_loading(label)
            case Drawn(card):
                self._on_drawn(card)
            case Ready():
                self.last_pulse_s = time.monotonic()
                self._on_ready(message)
            case Dying():
                self.dying = message

    def _update(self, items: Sequence[Update]) -> None:
        self.last_pulse_s = time.monotonic()
        news: dict[Sink, list[EngineSequence]] = {}
        for item in items:
            found = self._live.get(item.request_id)
            if found is None:
                continue
            seq, sink = found
            seq.tokens += item.token_ids
            if item.facts is not None:
                _take_facts(seq, item)
            if item.finish_reason is not None:
                del self._live[item.request_id]
                seq.stop_reason = item.stop_reason
                seq.error = messages.exception_of(item.error) if item.error is not None else None
                seq.finish_reason = item.finish_reason  # last: whoever sees it has all of the sequence
            news.setdefault(sink, []).append(seq)
        for sink, seqs in news.items():
            sink(seqs)

    def _fail_some(self, request_ids: Iterable[str], error: AphroditeError) -> None:
        by_sink: dict[Sink, list[str]] = {}
        for name in request_ids:
            if name in self._live:
                by_sink.setdefault(self._live.pop(name)[1], []).append(name)
        for sink, names in by_sink.items():
            sink(Failure(error, tuple(names)))


def _take_facts(seq: EngineSequence, item: Update) -> None:
    """What an update has beside tokens."""
    seq.logprobs += [TokenLogprobs(*entry) for entry in item.logprobs or ()]
    if item.prompt_logprobs is not None:
        seq.prompt_logprobs = [TokenLogprobs(*entry) for entry in item.prompt_logprobs]
    assert item.facts is not None
    seq.num_cached_tokens, seq.num_preemptions, *times = item.facts
    seq.times = messages.times_of(tuple(times))
