"""What stands between a front end and an engine, which may be in this thread's process or in another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aphrodite.types.request import Request
from aphrodite.types.request import Sequence as EngineSequence


@dataclass(frozen=True)
class Failure:
    """These requests have ended with an error."""

    error: BaseException
    request_ids: tuple[str, ...]


News = Sequence[EngineSequence] | Failure
Sink = Callable[[News], None]
"""Told what happens to requests: those that a step has given something to, or that have ended. Called on a thread of
the client's, once a step: it must hand on and return. It reads of a sequence what is new to it; a sequence may have got
more by then than when it was told."""


class EngineClient(Protocol):
    """Takes requests from any thread. Every request that was added ends: its sequence gets a `finish_reason`, or its
    sink a Failure."""

    def add(self, requests: Sequence[Request], sink: Sink) -> None:
        """Queue requests, all or none; the sink hears of each until it has ended."""

    def abort(self, request_ids: Iterable[str]) -> None:
        """End requests with `finish_reason` "abort" and free what they hold; those that have ended are ignored."""

    def hold(self, request_ids: Iterable[str]) -> None:
        """Spend no step on these requests until they are released: their reader is behind. What they hold goes to
        others, their tokens stay. Those that have ended are ignored. May be called in a sink."""

    def release(self, request_ids: Iterable[str]) -> None:
        """Let held requests go on, to the same tokens as ever."""

    def close(self) -> None:
        """Let go of the engine. Requests in flight end with an error."""
