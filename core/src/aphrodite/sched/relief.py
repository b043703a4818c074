"""Smaller steps for a while, when memory has run out in one."""

from __future__ import annotations

from dataclasses import replace

from aphrodite.sched.plan import Budget
from aphrodite.sched.rows import Rows
from aphrodite.types.request import Sequence
from aphrodite.types.step import SchedulerOutput

_PATIENCE, _MOST_PATIENCE = 16, 4096  # steps


class Relief:
    """What steps may hold: all of the budget, until memory runs out in one.

        tokens   budget | memory runs out in a step of n: n / 2 | after some steps 2 n / 2 | ... | budget

    The number of steps after which twice as much is tried doubles each time that this was in vain. So what a device can
    hold is found out in a few failures, and between two of them there is time enough for a sequence to get further.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._whole = budget
        self._patience = _PATIENCE
        self._num_good = 0  # steps that went well, since the size last changed
        self._was_tried = False  # memory ran out, and no step has gone well since
        self._has_grown = False  # since memory ran out the last time

    @property
    def is_on(self) -> bool:
        """Whether `succeed` has something to do."""
        return self._was_tried or self._has_grown or self.budget is not self._whole

    def shrink(self, plan: SchedulerOutput, rows: Rows) -> Sequence | None:
        """Memory has run out in a step: later ones hold half of its tokens. Returns its longest sequence, which has to
        end, if that is in vain: memory ran out in the step before as well, or in an earlier one of which this sequence
        was the longest, and as long."""
        if self._has_grown:
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self._has_grown = False
        num_tokens = min(int(plan.num_new.sum()), self.budget.num_tokens)
        self.budget = replace(self.budget, num_tokens=max(1, num_tokens // 2))
        self._num_good = 0
        longest, length = _longest(plan, rows)
        if longest is None:
            return None
        is_vain = self._was_tried or length <= longest.exhausted_at
        longest.exhausted_at = max(length, longest.exhausted_at)
        self._was_tried = not is_vain  # without the one that ends now, the others deserve another try
        return longest if is_vain else None

    def succeed(self) -> None:
        """A step went well."""
        self._was_tried = False
        self._num_good += 1
        if self._num_good < self._patience:
            return
        self._num_good = 0
        if self.budget is self._whole:
            self._patience, self._has_grown = _PATIENCE, False
            return
        num_tokens = 2 * self.budget.num_tokens
        is_less = num_tokens < self._whole.num_tokens
        self.budget = replace(self.budget, num_tokens=num_tokens) if is_less else self._whole
        self._has_grown = True


def _longest(plan: SchedulerOutput, rows: Rows) -> tuple[Sequence | None, int]:
    """The sequence of a step with the most tokens computed by its end, and their number; of equals the one that came
    last. None if nobody of the step is left."""
    alive = plan.rows[rows.epochs[plan.rows] == plan.epochs].tolist()
    lengths = {row: int(rows.computed[row]) for row in alive}
    row = max(alive, key=lambda row: (lengths[row], rows.at(row).arrival), default=None)
    return (None, 0) if row is None else (rows.at(row), lengths[row])
