"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(said: Callable[[], object], within_s: float = 30) -> None:
    """Wait until `said` gives something true; it fails the test if it never does."""
    deadline = time.monotonic() + within_s
    while not said():
        assert time.monotonic() < deadline, f"it did not happen within {within_s} s"
        time.sleep(0.01)
