"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(said: Callable[[], object], within_s: float = 30) -> None:
    """Wait until `said` gives something true; it fails the test if it never does."""
    deadline = time.monotonic() + within_s
    while not said():
        assert time.monotonic() < deadline, f"it did not happen within {within_s} s"
        time.sleep(0.01)


def in_time(do: Callable[[], T], within_s: float, tries: int = 3) -> T:
    """What `do` gives, done within a time by the clock in one of a few tries: a machine that stands still for a moment
    spoils one of them, what is slow is so in all."""
    took: list[float] = []
    for _ in range(tries):
        began = time.monotonic()
        found = do()
        took.append(time.monotonic() - began)
        if took[-1] < within_s:
            return found
    raise AssertionError(f"it took {took} s, never less than {within_s} s")
