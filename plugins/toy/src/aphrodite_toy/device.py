"""The device: one thread that takes work from a queue, in order, and later than the host would like."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aphrodite.plugin import DeviceError, DeviceInfo, MemoryInfo, host_memory

Open = Callable[[Any], Any]  # what turns a device argument into one that work can compute on


@dataclass(frozen=True)
class Work:
    """A call to make on the device thread; its device arguments are opened there, and only there."""

    name: str
    call: Callable[..., None]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """The first call that raised. Nothing behind it runs."""

    name: str
    error: BaseException


@dataclass
class Mark:
    """A place in the queue: passed when the device has come to it, and with what failure before it."""

    passed: threading.Event = field(default_factory=threading.Event)
    failure: Failure | None = None


class ToyDevice:
    """Device protocol. All streams share one queue, so every order that the host gives is kept.

    open      makes tensors readable for the work at hand
    jitter_s  mean delay before each piece of work; the delays are the same in every run
    The thread starts with the first work, so a device that only answers questions has none.
    """

    torch_device = None

    def __init__(self, info: DeviceInfo, open: Open, jitter_s: float) -> None:
        self.info = info
        self._open = open
        self._jitter_s = jitter_s
        self._random = random.Random(info.device)
        self._queue: queue.SimpleQueue[Work | Mark | None] = queue.SimpleQueue()
        self._failure: Failure | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def activate(self) -> None:
        pass  # no thread of the host has a current toy device

    def stream(self) -> ToyStream:
        return ToyStream(self)

    def event(self) -> ToyEvent:
        return ToyEvent(self)

    def synchronize(self) -> None:
        """Wait for everything. A failure is told here once; then the device, on which nothing runs, starts afresh."""
        event = self.event()
        event.record(self.stream())
        try:
            event.wait()
        finally:
            self._failure = None

    def memory(self) -> MemoryInfo:
        return host_memory()

    def close(self) -> None:
        """Run what is queued, then end the thread. Work that comes later is a DeviceError."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def submit(self, item: Work | Mark) -> None:
        """Put something at the end of the queue."""
        if self._closed:
            raise DeviceError(f"{self.info.device} is closed", subject=self.info.device)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"{self.info.device} device", daemon=True)
            self._thread.start()
        self._queue.put(item)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Mark):
                item.failure = self._failure
                item.passed.set()
            elif self._failure is None:
                self._execute(item)

    def _execute(self, work: Work) -> None:
        if self._jitter_s:
            time.sleep(self._jitter_s * self._random.uniform(0.5, 1.5))
        try:
            args = [self._open(value) for value in work.args]
            work.call(*args, **{name: self._open(value) for name, value in work.kwargs.items()})
        except BaseException as error:  # whatever it was: the thread lives on, for events to be passed
            self._failure = Failure(work.name, error)


@dataclass(frozen=True)
class ToyStream:
    """Stream protocol, and the door through which kernels come: `enqueue`."""

    device: ToyDevice
    handle: int = 0

    def enqueue(self, name: str, call: Callable[..., None], /, *args: Any, **kwargs: Any) -> None:
        """Call `call` on the device, after all that came before. It gets torch views for device tensors.

        name  of the call, for the message if it fails
        """
        self.device.submit(Work(name, call, args, kwargs))


class ToyEvent:
    """Event protocol. Recorded again, it means the last time; never recorded, it has passed."""

    def __init__(self, device: ToyDevice) -> None:
        self._device = device.info.device
        self._mark: Mark | None = None

    def record(self, stream: object) -> None:
        assert isinstance(stream, ToyStream)
        self._mark = Mark()
        stream.device.submit(self._mark)

    def done(self) -> bool:
        return self._mark is None or self._mark.passed.is_set()

    def wait(self) -> None:
        if self._mark is None:
            return
        self._mark.passed.wait()
        if (failure := self._mark.failure) is not None:
            what = f"{failure.name} failed on {self._device}: {type(failure.error).__name__}: {failure.error}"
            raise DeviceError(what, subject=self._device) from failure.error
