"""The engine's process: reads requests from a socket that it was born with, and writes what each step gives.

    reader   Add, Abort, Hold, Release -> EngineLoop
    engine   a step's news -> Updates, one message
    pulse    between two steps, now and then, and when the work is done -> Pulse

The socket is one end of a pair: it has no name, so nobody else can connect. When its other end is gone, so are we.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from aphrodite.config.engine import EngineConfig
from aphrodite.engine.client import Failure, News
from aphrodite.engine.engine import Engine
from aphrodite.engine.loop import EngineLoop
from aphrodite.engine.remote import messages
from aphrodite.engine.remote.messages import (
    HEAD,
    VERSION,
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
    Start,
    ToEngine,
    Update,
    Updates,
)
from aphrodite.engine.remote.signals import SERVERS_SIGNALS, let_through
from aphrodite.errors import AphroditeError, DeviceError
from aphrodite.types.model_card import ModelCard
from aphrodite.types.progress import Progress
from aphrodite.types.request import Request
from aphrodite.types.request import Sequence as EngineSequence
from aphrodite.types.stats import EngineStats

PULSE_S = (1.0, 5.0)  # from pulse to pulse, while there is work and while there is none
_SEND_BUFFER = 4 << 20
_PR_SET_PDEATHSIG = 1
_LOG = logging.getLogger("aphrodite")


class Built(NamedTuple):
    """An engine that is ready to run, and what the other side must know of it."""

    engine: Engine
    card: ModelCard
    max_num_seqs: int
    reasons: dict[str, str]
    notes: list[str]


Build = Callable[[EngineConfig, Progress, Callable[[ModelCard], None]], Built]
"""An engine for a config; tells of long work, and of the model before it loads it."""


class Channel:
    """The socket, as messages. Read by one thread, written by several."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=1 << 16)
        self._lock = threading.Lock()

    def receive(self) -> ToEngine | None:
        """The next message; None when the other end is gone."""
        head = self._file.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        data = self._file.read(messages.length_of(head))
        return messages.to_engine(data)

    def send(self, message: FromEngine) -> None:
        """Send a message. Waits while the other side is behind: it reads always, unless it is overloaded itself."""
        data = messages.packed(message)
        with self._lock:
            self._sock.sendall(data)


class _Phases:
    """Tells the other side what is being loaded."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def start(self, label: str, total: int, unit: str) -> None:
        self._channel.send(Loading(label))

    def advance(self, amount: int) -> None:
        pass

    def finish(self) -> None:
        pass


class _Teller:
    """The sink of all requests: tells what is new of each sequence. Lives on the engine's thread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._told: dict[str, int] = {}  # tokens of the output, by request

    def __call__(self, news: News) -> None:
        try:
            self._tell(news)
        except BaseException as error:  # requests that nobody tells of would be waited for without end
            _LOG.exception("results could not be told")
            _end(self._channel, error)

    def _tell(self, news: News) -> None:
        if isinstance(news, Failure):
            for name in news.request_ids:
                self._told.pop(name, None)
            self._channel.send(Failed(list(news.request_ids), messages.error_of(news.error)))
            if isinstance(news.error, DeviceError):  # it would fail every other request too
                _end(self._channel, news.error)
            return
        # A part of the prompt's log-probabilities is no news: with the first token they are all there.
        items = [self._update(seq) for seq in news if seq.num_output or seq.finish_reason is not None]
        if items:
            self._channel.send(Updates(items))

    def _update(self, seq: EngineSequence) -> Update:
        request = seq.request
        name, wanted = request.request_id, request.sampling
        told = self._told.get(name, -1)
        first, start = told < 0, max(told, 0)
        tokens = seq.tokens[len(request.prompt_token_ids) + start :]
        reason = seq.finish_reason
        if reason is None:
            self._told[name] = start + len(tokens)
        else:
            self._told.pop(name, None)
        # A long prompt makes news before its last chunk; its log-probabilities are whole once a token is drawn.
        brings_prompt = wanted.prompt_logprobs is not None and start == 0 and bool(tokens or reason)
        if not first and reason is None and wanted.logprobs is None and not brings_prompt:
            return Update(name, tokens)
        logprobs = prompt_logprobs = None
        if wanted.logprobs is not None:
            logprobs = [messages.logprobs_of(entry) for entry in seq.logprobs[start:]]
        if brings_prompt:
            prompt_logprobs = [messages.logprobs_of(entry) for entry in seq.prompt_logprobs]
        times = seq.times
        facts = (
            seq.num_cached_tokens or 0,
            seq.num_preemptions,
            times.arrival_s,
            times.first_scheduled_s,
            times.first_token_s,
            times.finished_s,
        )
        error = messages.error_of(seq.error) if seq.error is not None else None
        return Update(name, tokens, reason, seq.stop_reason, logprobs, prompt_logprobs, facts, error)


def serve(channel: Channel, build: Build, pulse_s: tuple[float, float] = PULSE_S) -> None:
    """Build the engine that the first message asks for, and run it until the other end is gone. Does not return."""
    first = channel.receive()
    if not isinstance(first, Start) or first.version != VERSION:
        _end(channel, AphroditeError(f"the first message must be a Start of version {VERSION}"))
        return
    inbox = _Inbox(channel)
    made: list[Built] = []

    def make() -> Engine:
        made.append(build(first.config, _Phases(channel), lambda card: channel.send(Drawn(card))))
        return made[0].engine

    def rests(engine: Engine) -> None:  # what is free now is not to be told only with the next pulse
        with contextlib.suppress(OSError):
            channel.send(Pulse(engine.stats()))

    try:
        loop = EngineLoop(make, rests, lambda error: _end(channel, error))
    except AphroditeError as error:
        _end(channel, error)
        raise
    (built,) = made
    gc.freeze()  # what stands now stays: no step waits while all of it is looked at again
    gc.enable()
    teller = _Teller(channel)
    channel.send(Ready(built.card, built.max_num_seqs, built.reasons, built.notes))
    threading.Thread(target=_pulses, args=(loop, channel, *pulse_s), daemon=True).start()
    inbox.hand_to(lambda message: _handle(message, loop, teller, channel))


class _Inbox:
    """Reads on a thread of its own from the start, so that the other end's death is seen while a model loads."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._handle: Callable[[ToEngine], None] | None = None
        self._early: list[ToEngine] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="aphrodite-reader", daemon=True)
        self._thread.start()

    def hand_to(self, handle: Callable[[ToEngine], None]) -> None:
        """From now on messages go there. Does not return."""
        with self._lock:
            for message in self._early:
                handle(message)
            self._handle = handle
        self._thread.join()

    def _read(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                with self._lock:
                    if self._handle is None:
                        self._early.append(message)
                    else:
                        self._handle(message)
        except OSError:
            pass
        except BaseException as error:
            _LOG.exception("a message could not be read")
            _end(self._channel, error)
        os._exit(0)  # the other end is gone; whatever the engine does now is for nobody


def _handle(message: ToEngine, loop: EngineLoop, teller: _Teller, channel: Channel) -> None:
    match message:
        case Add(requests):
            loop.add(_unwired(requests), teller)
        case Abort(request_ids):
            loop.abort(request_ids)
        case Hold(request_ids):
            loop.hold(request_ids)
        case Release(request_ids):
            loop.release(request_ids)
        case ResetPrefixCache():
            loop.call(Engine.reset_prefix_cache)
            channel.send(Pulse(loop.call(Engine.stats)))
        case RefuseWaiting(groups):
            waiting = set(loop.call(Engine.not_started))
            loop.abort(name for group in groups if waiting.issuperset(group) for name in group)
        case Start():
            raise ValueError("a second Start")


def _unwired(found: list[messages.WireRequest]) -> list[Request]:
    return [messages.unwired(one) for one in found]


def _pulses(loop: EngineLoop, channel: Channel, busy_s: float, idle_s: float) -> None:
    """Say that the engine's thread is alive, by asking it. It answers between two steps: whatever is silent for longer
    than a step takes has stopped, be it the process, its device or a kernel."""
    last: EngineStats | None = None
    while True:
        stats = loop.call(Engine.stats)
        try:
            channel.send(Pulse(stats))
        except OSError:
            os._exit(0)  # the other end is gone
        is_busy = bool(stats.num_running or stats.num_waiting) or stats != last
        last = stats
        time.sleep(busy_s if is_busy else idle_s)


def _end(channel: Channel, error: BaseException) -> None:
    """Say why, and end the process."""
    code = error.exit_code if isinstance(error, AphroditeError) else 1
    with contextlib.suppress(OSError):  # nobody listens
        channel.send(Dying(messages.error_of(error), code))
    sys.stderr.flush()
    os._exit(code)


def assembled(config: EngineConfig, progress: Progress, on_drawn: Callable[[ModelCard], None]) -> Built:
    """The engine that a config describes."""
    from aphrodite.build import assemble
    from aphrodite.engine.card import card_of

    found = assemble(config, progress, lambda blueprint: on_drawn(card_of(blueprint)))
    blueprint = found.blueprint
    return Built(
        found.engine,
        card_of(blueprint),
        config.scheduler.max_num_seqs,
        dict(blueprint.reasons),
        list(blueprint.notes),
    )


def _die_with_server() -> None:
    """Where the system sees to that: who is stopped, or hangs in a kernel, does not see that the socket is closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def main(build: Build = assembled, pulse_s: tuple[float, float] = PULSE_S) -> None:
    """Run on the socket whose number is the last argument."""
    gc.disable()  # while modules and weights are loaded nothing becomes garbage, and looking for it takes 0.2 s
    for number in SERVERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    let_through()
    _die_with_server()
    faulthandler.enable(all_threads=False)  # a crash in native code says where: the server passes it on
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    sock = socket.socket(fileno=int(sys.argv[-1]))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    channel = Channel(sock)
    try:
        serve(channel, build, pulse_s)
    except BaseException as error:
        _LOG.exception("the engine's process has failed")
        _end(channel, error)


if __name__ == "__main__":
    main()
