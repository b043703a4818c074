"""How a connection ends: so that whoever still reads gets all of the answer, and whoever does not is not waited for.

closed at once, with bytes of the client's unread     the system resets it, and takes the answer away
lingering                                              our side is shut, what comes is read and dropped
half-closed by the client                              it gets what is answered at once
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final, NamedTuple

_LINGER_S = 2.0  # in which a client may find out that it is to send no more
_DROPPED_BYTES: Final = 64 << 10
_PART_S = 10.0  # in which a client may still take the last frames of an answer that it has left unread
_CONFIRM_S = 5.0  # in which a client that has taken all may say so
_TCP_INFO = getattr(socket, "TCP_INFO", None)  # as Linux has it:
_INFO = struct.Struct("=24xI92xQ16xI")  # segments under way, bytes confirmed, bytes not sent yet


class _Sent(NamedTuple):
    """taken  grows as the client takes what was written;  left  0 once it has taken all of it."""

    taken: int
    left: int


class Ending:
    """The end of one connection.

    unread_s  in which a client must take some of an answer that is complete
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, unread_s: float) -> None:
        self.is_lingering = False
        self._transport = transport
        is_tls = transport.get_extra_info("sslcontext") is not None
        self._asks_system = (
            is_tls and transport.get_extra_info("socket").family != socket.AF_UNIX and _TCP_INFO is not None
        )
        self._loop = loop
        self._unread_s = unread_s
        self._num_dropped = 0
        self._unread_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._has_drained = False  # all but little of what was written was taken, since that was looked at

    def cancel(self) -> None:
        """It has ended."""
        for timer in (self._unread_timer, self._end_timer):
            if timer is not None:
                timer.cancel()

    # ---- an end of ours ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write no more, and end it when all is sent. Over TLS a client is to confirm that, and may not."""
        self._transport.close()
        if self._asks_system:
            self._await_taken()

    def _await_taken(self) -> None:
        self._end_timer = self._loop.call_later(_CONFIRM_S, self._check_taken)

    def _check_taken(self) -> None:
        if self._sent().left:
            self._await_taken()
        else:
            self._transport.abort()

    def linger(self) -> None:
        """Write no more, and close it when the client has, or when it had time to."""
        if self.is_lingering or self._transport.is_closing():
            return
        self.is_lingering = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()
        self._end_timer = self._end_timer or self._loop.call_later(_LINGER_S, self.close)

    def drop(self, data: bytes) -> None:
        """Bytes that nobody will read."""
        self._num_dropped += len(data)
        if self._num_dropped > _DROPPED_BYTES and not self._transport.is_closing():
            self.close()

    def part(self) -> None:
        """End it when what is written is sent, or when it has lingered: the client has not read for too long."""
        if self._end_timer is None:
            self._end_timer = self._loop.call_later(_PART_S, self._transport.abort)

    # ---- answers that are complete, and unread ----------------------------------------------------------------------

    def watch_unread(self) -> None:
        """From now on: what is left may be of several answers, and more than what was left before."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        found = self._sent()
        if found.left:
            self._has_drained = False
            self._unread_timer = self._loop.call_later(self._unread_s, self._check_unread, found.taken)

    def drained(self) -> None:
        """The client has taken what was too much."""
        self._has_drained = True

    def _check_unread(self, before: int) -> None:
        """End a connection on which nothing was taken all the time."""
        found = self._sent()
        if found.left and found.taken <= before and not self._has_drained:
            self._transport.abort()
        else:
            self.watch_unread()

    def _sent(self) -> _Sent:
        """How far the client is. A transport of TLS does not know how much lies in the one below it; the system does
        know what the client has confirmed, and as long as all is, nothing lies anywhere."""
        if self._asks_system:
            sock = self._transport.get_extra_info("socket")
            with contextlib.suppress(OSError, struct.error):  # it is closed already; a system of old says less
                info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO.size)
                num_segments, num_acked, num_unsent = _INFO.unpack(info)
                return _Sent(num_acked, num_segments + num_unsent)
        left = self._transport.get_write_buffer_size()
        return _Sent(-left, left)
