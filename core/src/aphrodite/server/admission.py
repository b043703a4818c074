"""How many sequences may be on their way at once, and when to come again if that is too many."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from aphrodite.server.errors import ApiError

_WINDOW_S = 30.0
_DEFAULT_S = 5.0  # nothing has ended yet, so nothing is known


class Admission:
    """Counts sequences before any work is done on them. `take` as many as a request has, and give them back one by one.

    limit  sequences in the engine and before it
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.num_taken = 0
        self.num_refused = 0
        self._clock = clock
        self._ends: deque[float] = deque(maxlen=4096)  # when the last ones ended

    def take(self, count: int) -> None:
        """Count so many sequences in. ApiError as for `check`."""
        self.check(count)
        self.num_taken += count

    @property
    def is_full(self) -> bool:
        """Whether there is room for no more."""
        return self.num_taken >= self.limit

    def check(self, count: int) -> None:
        """ApiError 429 if they are too many now, with the time in which the queue will have drained so far; 400 if they
        would be too many at any time."""
        if count > self.limit:
            raise ApiError(
                400,
                "invalid_value",
                f"the request has {count} sequences, more than the {self.limit} that fit here",
                "n",
            )
        if self.num_taken + count > self.limit:
            self.num_refused += 1
            raise ApiError(
                429,
                "queue_full",
                f"{self.num_taken} sequences are on their way, and {count} more would be over the limit of "
                f"{self.limit}: try again later",
                retry_after_s=self.drained_in_s(self.num_taken + count - self.limit),
            )

    def give_back(self, count: int) -> None:
        """These have ended."""
        self.num_taken -= count
        now = self._clock()
        self._ends.extend([now] * count)

    def drained_in_s(self, count: int) -> float:
        """Seconds until so many will have ended, by the rate of the last half minute; 1 to 60."""
        now = self._clock()
        while self._ends and self._ends[0] < now - _WINDOW_S:
            self._ends.popleft()
        if not self._ends:
            return _DEFAULT_S
        rate = len(self._ends) / max(now - self._ends[0], 1.0)
        return min(max(count / rate, 1.0), 60.0)
