"""Signals that ask a server to end, when nobody listens for them yet."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

# They reach the whole group, a terminal's Ctrl-C for one: the server decides when its engine ends.
SERVERS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """They wait, for this thread and the threads and processes that it starts, until they are let through. They are
    not lost, as they would be for a container's first process; and they raise nothing, wherever it may be."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SERVERS_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Whoever is to hear of them does."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SERVERS_SIGNALS)
