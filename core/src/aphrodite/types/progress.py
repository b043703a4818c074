"""How long work is reported, without the worker knowing who looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A phase of known length. `start` once, `advance` as it goes, `finish` once (also when it failed)."""

    def start(self, label: str, total: int, unit: str) -> None: ...

    def advance(self, amount: int) -> None: ...

    def finish(self) -> None: ...


class NoProgress:
    """Nobody looks."""

    def start(self, label: str, total: int, unit: str) -> None:
        pass

    def advance(self, amount: int) -> None:
        pass

    def finish(self) -> None:
        pass
