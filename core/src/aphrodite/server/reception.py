"""How far a request has come, and whether it comes in time.

bytes  [ head: 10 s | body: 1 KiB a second and 60 s ]
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aphrodite.server.body import Limits

_CHECK_S = 1.0
_SLACK_BYTES = 64 << 10  # that a body may take beside what it says, in chunks


class Reception:
    """What comes on one connection: the next head, or the body behind one.

    on_late  is called when it has not come in time; the clock has stopped by then
    """

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop, on_late: Callable[[], None]) -> None:
        self.in_body = False  # else in a head: of the next request, or of one that has begun
        self.num_head_bytes = 0
        self.num_body_bytes = 0
        self._limits = limits
        self._loop = loop
        self._on_late = on_late
        self._began_s: float | None = None  # the head, then the body
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_within(self) -> bool:
        """Whether something of a request is here, and not all of it."""
        return self.in_body or bool(self.num_head_bytes)

    @property
    def is_head_too_large(self) -> bool:
        """Whether more than a head and its target may have has come without the end of it."""
        return not self.in_body and self.num_head_bytes > self._limits.header_bytes + self._limits.url_bytes

    @property
    def is_body_too_large(self) -> bool:
        """Whether more has come than a body may have, whatever it says of itself."""
        return self.in_body and self.num_body_bytes > self._limits.body_bytes + _SLACK_BYTES

    def count(self, num_bytes: int) -> None:
        """So many bytes have come, of a head or a body."""
        if self.in_body:
            self.num_body_bytes += num_bytes
            return
        self.num_head_bytes += num_bytes
        if self._began_s is None:
            self.start()

    def begin_body(self) -> None:
        """A head is here; its body has its own time."""
        self.in_body = True
        self.num_head_bytes = self.num_body_bytes = 0
        self.start()

    def end(self) -> None:
        """All of a request is here; the next one may take any time to begin."""
        self.in_body = False
        self.stop()

    def start(self) -> None:
        """The clock runs, from now on."""
        self._began_s = time.monotonic()
        if self._timer is None:
            self._timer = self._loop.call_later(_CHECK_S, self._check)

    def stop(self) -> None:
        """Nothing is being waited for."""
        self._began_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        if self._began_s is None:
            return
        elapsed_s = time.monotonic() - self._began_s
        limits = self._limits
        if self.in_body:
            is_slow = self.num_body_bytes < (elapsed_s - limits.head_s) * limits.body_bytes_a_s
            late = elapsed_s > limits.body_s or is_slow
        else:
            late = elapsed_s > limits.head_s - _CHECK_S
        if late:
            self._began_s = None
            self._on_late()
        else:
            self._timer = self._loop.call_later(_CHECK_S, self._check)
