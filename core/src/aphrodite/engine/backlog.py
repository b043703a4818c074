"""How much of a request waits to be read: a reader that falls behind stops its own sequences, and nobody else's."""

from __future__ import annotations

from collections.abc import Sequence

from aphrodite.engine.client import EngineClient
from aphrodite.types.request import Request

_MOST_TOKENS = 1024  # of all of a request's sequences, if they have no log-probabilities; about 40 KiB
_WORTH_STEPS = 16  # that one who wants all in the end reads together: a hundred such reads may fall into one moment
_LEAST_STEPS = 8  # that a reader may be behind, however much each of them brings


class Backlog:
    """Counts what each step brings and nobody has read. At the bound the sequences are held in the engine; as soon as
    somebody reads, which takes all there is, they are released.

        read | 1 2 3 ... bound: hold | in flight      read: release

    A token with k log-probabilities counts as 1 + k. What is kept stays under 1 MiB; a few steps are always allowed, so
    that a reader who is only as far behind as threads and event loops are stops nothing.
    """

    def __init__(self, client: EngineClient, requests: Sequence[Request]) -> None:
        self._client = client
        self._request_ids = [request.request_id for request in requests]
        num_values = 1 + max(request.sampling.logprobs or 0 for request in requests)
        self._most = max(_MOST_TOKENS // num_values, _LEAST_STEPS * len(requests))
        self._worth = min(self._most // 2, _WORTH_STEPS * len(requests))
        self._count = 0
        self._is_held = False

    def grow(self, *, may_hold: bool = True) -> None:
        """A sequence has got a token. Nothing is held for a reader that wants all of it in the end."""
        self._count += 1
        if self._count >= self._most and may_hold and not self._is_held:
            self._is_held = True
            self._client.hold(self._request_ids)

    @property
    def is_worth_reading(self) -> bool:
        """Whether somebody who wants all of it in the end should read now: often enough that no read takes long."""
        return self._count >= self._worth

    def clear(self) -> None:
        """All that there is has been read."""
        self._count = 0
        if self._is_held:
            self._is_held = False
            self._client.release(self._request_ids)
