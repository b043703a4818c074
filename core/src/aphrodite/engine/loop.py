"""The thread that an engine lives on: requests come from any thread, results go to whoever asked for them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from aphrodite.engine.client import Failure, News, Sink
from aphrodite.engine.engine import Engine
from aphrodite.errors import DeviceError, EngineDied, UsageError, told
from aphrodite.types.request import Request
from aphrodite.types.request import Sequence as EngineSequence

_LOG = logging.getLogger("aphrodite")
T = TypeVar("T")


@dataclass(frozen=True)
class _Live:
    """A request that has not ended, and who is told of it."""

    sequence: EngineSequence
    sink: Sink


class _Task(NamedTuple):
    """Something to do between two steps, and whom to tell if it never will be done."""

    do: Callable[[], None]
    refuse: Callable[[EngineDied], None] = lambda error: None


class EngineLoop:
    """An EngineClient in this process. One thread steps the engine while it has work, and sleeps while it has none.

        callers    add ─┐        abort ─┐
        thread          └ step, step, step ┴ step ...   each step's news to their sinks

    make  gives the engine, on the thread that it will live on: what a device keeps for each thread (which device is
          current, how many threads compute) is set there, and stays as it was on the caller's. What it raises comes out
          of the constructor
    rests  is called on that thread whenever the last of the work is done
    fails  is called on that thread when the engine's books are lost, as the last thing that it does. Until then every
           request has been told so, and those to come are refused
    """

    def __init__(
        self,
        make: Callable[[], Engine],
        rests: Callable[[Engine], None] = lambda engine: None,
        fails: Callable[[EngineDied], None] = lambda error: None,
    ) -> None:
        self._rests = rests
        self._fails = fails
        self._died: EngineDied | None = None
        self._live: dict[str, _Live] = {}
        self._counts: Counter[Sink] = Counter()  # live requests of each sink
        self._changed = threading.Condition()
        self._inbox: deque[_Task] = deque()  # what to do between two steps
        self._closing = False
        made: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(make, made), name="aphrodite-engine", daemon=True)
        self._thread.start()
        try:
            made.result()
        finally:
            del made  # or an error would hold itself, and with it all that was being made

    def add(self, requests: Sequence[Request], sink: Sink) -> None:
        """Queue requests. UsageError once the loop is closed, EngineDied once the engine is lost; what the engine
        refuses is told to the sink."""
        arrival_s = time.monotonic()
        names = tuple(request.request_id for request in requests)
        self._post(
            lambda: self._add(requests, sink, arrival_s), lambda error: self._hand_to(sink, Failure(error, names))
        )

    def abort(self, request_ids: Iterable[str]) -> None:
        """End requests before the next step."""
        ids = list(request_ids)
        self._tell_thread(lambda: self._abort(ids))

    def hold(self, request_ids: Iterable[str]) -> None:
        """Spend no step on requests, from the next one on, until they are released."""
        ids = list(request_ids)
        self._tell_thread(lambda: _each(self._engine.hold, ids))

    def release(self, request_ids: Iterable[str]) -> None:
        """Let held requests go on."""
        ids = list(request_ids)
        self._tell_thread(lambda: _each(self._engine.release, ids))

    def call(self, function: Callable[[Engine], T]) -> T:
        """What `function` gives or raises, called between two steps. UsageError once the loop is closed, EngineDied
        once the engine is lost."""
        done = threading.Event()
        outcome: list[Any] = [None, None]

        def run() -> None:
            try:
                outcome[0] = function(self._engine)
            except BaseException as error:
                outcome[1] = error
            finally:
                done.set()

        def refuse(error: EngineDied) -> None:
            outcome[1] = error
            done.set()

        self._post(run, refuse)
        done.wait()
        if outcome[1] is not None:
            raise outcome[1]
        found: T = outcome[0]
        return found

    def close(self) -> None:
        """Close the engine and end the thread; requests in flight end with an error. May be called again."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused."""
        return self._closing

    # ---- on the thread --------------------------------------------------------------------------------------------

    def _run(self, make: Callable[[], Engine], made: Future[None]) -> None:
        try:
            self._engine = make()
        except BaseException as error:
            made.set_exception(error)
            return
        else:
            made.set_result(None)
        finally:
            del make, made  # what they hold is not ours to keep
        try:
            self._live_on()
            self._fail(UsageError("the engine was closed while the request ran", subject="close"))
        except BaseException as error:
            self._die(error)
        try:
            self._engine.close()
        except BaseException:
            _LOG.exception("closing the engine failed")
        finally:
            del self._engine
            if self._died is not None:
                self._fails(self._died)

    def _live_on(self) -> None:
        """Work and rest until the loop is closed."""
        has_worked = False
        while self._wait():
            if self._engine.has_work:
                self._step()
                has_worked = True
            if has_worked and not self._engine.has_work:
                has_worked = False
                self._rests(self._engine)

    def _die(self, error: BaseException) -> None:
        """An error where none is foreseen: the books cannot be relied on any more. Nobody is to wait for ever."""
        _LOG.critical("the engine's thread has failed", exc_info=error)
        first = error
        while first.__context__ is not None:  # the others followed from it
            first = first.__context__
        died = EngineDied(f"the engine has failed: {told(first)}", subject=type(first).__name__)
        with self._changed:
            self._died, self._closing = died, True
            tasks = list(self._inbox)
            self._inbox.clear()
        live, self._live = self._live, {}
        ended: dict[Sink, list[str]] = {}
        for name, one in live.items():
            ended.setdefault(one.sink, []).append(name)
        for sink, names in ended.items():
            self._hand_to(sink, Failure(died, tuple(names)))
        for task in tasks:
            task.refuse(died)

    def _wait(self) -> bool:
        """Sleep until there is something to do, then do what was asked for. False once the loop is to end."""
        with self._changed:
            while not (self._inbox or self._closing or self._engine.has_work):
                self._changed.wait()
            todo = len(self._inbox)
        for _ in range(todo):
            self._inbox[0].do()
            self._inbox.popleft()  # only now: it is to be refused if it ends the thread
        return not self._closing

    def _step(self) -> None:
        try:
            changed = self._engine.step()
        except Exception as error:  # whatever it is, the others' requests and this thread outlive it
            self._fail(error)
            return
        except BaseException as error:  # a plugin that wants to end a process which is not its own
            self._fail(DeviceError(f"a step was ended by {told(error)}", subject="step"))
            return
        if changed:
            self._tell(changed)

    def _tell(self, changed: Sequence[EngineSequence]) -> None:
        """Hand the step's news to their sinks, and forget who has ended."""
        if len(self._counts) == 1:
            groups = {next(iter(self._counts)): changed}
        else:
            groups = {}
            for seq in changed:
                groups.setdefault(self._live[seq.request.request_id].sink, []).append(seq)  # type: ignore[attr-defined]
        for seq in [seq for seq in changed if seq.finish_reason is not None]:
            self._forget(seq.request.request_id)
        for sink, news in groups.items():
            self._hand_to(sink, news)

    def _hand_to(self, sink: Sink, news: News) -> None:
        try:
            sink(news)
        except Exception:  # nobody listens any more, an event loop was closed, say
            _LOG.exception("results could not be handed over; their requests are dropped")
            self._drop(name for name, live in self._live.items() if live.sink == sink)

    def _add(self, requests: Sequence[Request], sink: Sink, arrival_s: float) -> None:
        added: list[str] = []
        try:
            for request in requests:
                self._live[request.request_id] = _Live(self._engine.add(request, arrival_s), sink)
                self._counts[sink] += 1
                added.append(request.request_id)
        except Exception as error:
            self._drop(added)
            self._hand_to(sink, Failure(error, tuple(request.request_id for request in requests)))

    def _abort(self, request_ids: Iterable[str]) -> None:
        for name in request_ids:
            if name in self._live:
                live = self._live[name]
                self._engine.abort(name)
                self._forget(name)
                self._hand_to(live.sink, [live.sequence])

    def _fail(self, error: BaseException) -> None:
        """End every request with an error."""
        ended: dict[Sink, list[str]] = {}
        for name, live in self._live.items():
            ended.setdefault(live.sink, []).append(name)
        self._drop(self._live)
        for sink, names in ended.items():
            self._hand_to(sink, Failure(error, tuple(names)))

    def _drop(self, request_ids: Iterable[str]) -> None:
        """Forget requests without a finish_reason: who reads of them is to meet a Failure, not an end."""
        for name in list(request_ids):
            self._engine.abort(name, None)
            self._forget(name)

    def _forget(self, request_id: str) -> None:
        sink = self._live.pop(request_id).sink
        self._counts[sink] -= 1
        if not self._counts[sink]:
            del self._counts[sink]

    def _tell_thread(self, do: Callable[[], None]) -> None:
        """As _post, but without effect once the loop is closed."""
        with self._changed:
            if not self._closing:
                self._inbox.append(_Task(do))
                self._changed.notify()

    def _post(self, do: Callable[[], None], refuse: Callable[[EngineDied], None]) -> None:
        with self._changed:
            if self._died is not None:
                raise self._died
            if self._closing:
                raise UsageError("this engine is closed: make a new one", subject="close")
            self._inbox.append(_Task(do, refuse))
            self._changed.notify()


def _each(do: Callable[[str], None], request_ids: Iterable[str]) -> None:
    for name in request_ids:
        do(name)
