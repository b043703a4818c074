"""Host buffers that uploads and downloads run from: a ring, each slot free again when its event has passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from aphrodite.platform.spi import Event, Platform

Slot = TypeVar("Slot")


@dataclass
class _Entry(Generic[Slot]):
    slot: Slot
    event: Event
    used: bool = False


class Ring(Generic[Slot]):
    """`size` slots used in turn. `take` waits until the device is done with a slot's last use; the caller records the
    event behind the new one."""

    def __init__(self, size: int, make: Callable[[], Slot], platform: Platform) -> None:
        self._entries = [_Entry(make(), platform.device.event()) for _ in range(size)]
        self._next = 0

    def take(self) -> tuple[Slot, Event]:
        """The next slot and the event that will guard it."""
        entry = self._entries[self._next]
        self._next = (self._next + 1) % len(self._entries)
        if entry.used:
            entry.event.wait()
        entry.used = True
        return entry.slot, entry.event

    def forget(self) -> None:
        """No slot is in use: the device has been waited for."""
        for entry in self._entries:
            entry.used = False
