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

    limit         sequences in the engine and before it
    num_entering  requests that are about to be counted
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.num_taken = 0
        self.num_entering = 0
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

    @property
    def is_spoken_for(self) -> bool:
        """Whether there will be none for who comes now, as far as is known."""
        return self.num_taken + self.num_entering >= self.limit

    def enter(self) -> Entry:
        """Count a request that is here, and of which nobody has looked yet how many sequences it has."""
        return Entry(self)

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
            raise self.refusal(count)

    def refusal(self, count: int) -> ApiError:
        """What is said of so many that there is no room for."""
        taken = max(self.num_taken, min(self.num_taken + self.num_entering, self.limit))
        return ApiError(
            429,
            "queue_full",
            f"{taken} sequences are on their way, and {count} more would be over the limit of {self.limit}: try again "
            "later",
            retry_after_s=self.drained_in_s(taken + count - self.limit),
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


class Entry:
    """A request on its way in, for one sequence."""

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission
        admission.num_entering += 1

    def close(self) -> None:
        """It is in, or has ended."""
        if self._admission is not None:
            self._admission.num_entering -= 1
            self._admission = None
