"""Long work, shown: a progress bar on a terminal, a line every five seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBar

from aphrodite.errors import UsageError
from aphrodite.types.progress import NoProgress, Progress

_LINE_EVERY_S = 5.0


def progress(quiet: bool) -> Progress:
    """What reports long work on standard error."""
    if quiet:
        return NoProgress()
    return Bar() if sys.stderr.isatty() else Lines()


def shown(use_tqdm: Any) -> Progress:
    """What LLM's argument of that name asks for: False, nothing; True, a bar or lines on standard error; or a class
    that makes bars, as tqdm does: called with total, desc and unit, it gives an object with update(n) and close()."""
    if isinstance(use_tqdm, bool):
        return progress(quiet=not use_tqdm)
    if not callable(use_tqdm):
        raise UsageError(f"use_tqdm must be true, false or a class of bars, got {use_tqdm!r}", subject="use_tqdm")
    return Foreign(use_tqdm)


class Foreign:
    """A bar of the caller's own."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._bar: Any = None

    def start(self, label: str, total: int, unit: str) -> None:
        self._bar = self._make(total=total, desc=label, unit=unit)

    def advance(self, amount: int) -> None:
        self._bar.update(amount)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Bar:
    """A bar with an estimate of the time left."""

    def __init__(self) -> None:
        self._bar: RichBar | None = None

    def start(self, label: str, total: int, unit: str) -> None:
        count: ProgressColumn = DownloadColumn() if unit == "B" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
        self._bar = RichBar(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(label, total=total)
        self._bar.start()

    def advance(self, amount: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, advance=amount)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Lines:
    """For logs: a line when work has gone on for a while, none for short work."""

    def start(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._next = time.monotonic() + _LINE_EVERY_S

    def advance(self, amount: int) -> None:
        self._done += amount
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_S
            share = 100 * self._done / max(self._total, 1)
            print(f"{self._label}: {self._done} of {self._total} {self._unit} ({share:.0f} %)", file=sys.stderr)

    def finish(self) -> None:
        pass
