"""What is left of a rendering's work, and how large values are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Undefined

MAX_WORK = 1 << 26  # units: a character or element made is one, a step STEP
MAX_SIZE = 1 << 24  # characters and elements of one value, all that it holds counted each time it is held
STEP = 64
CALL = 4 * STEP
BUDGET = " budget"  # a variable's name that no template can spell


class BudgetError(Exception):
    """A rendering that would take more work or memory than it may."""


class Budget:
    """What is left of a rendering's work."""

    def __init__(self) -> None:
        self._left = MAX_WORK

    def spend(self, units: int) -> None:
        """Pay. BudgetError if too little is left."""
        self._left -= units
        if self._left < 0:
            raise BudgetError(f"rendering takes more than {MAX_WORK} units of work")

    def weigh(self, value: Any) -> int:
        """The characters that a value has when written, about; pays for looking at it."""
        if isinstance(value, str):
            return len(value)
        if isinstance(value, range):
            return 8 * len(value)
        self.spend(STEP)
        if isinstance(value, Mapping):
            size = sum(self.weigh(key) + self.weigh(item) + 4 for key, item in value.items())
        elif isinstance(value, (list, tuple, set, frozenset)):
            size = sum(self.weigh(item) + 2 for item in value)
        elif isinstance(value, int):
            return value.bit_length() // 3 + 5
        elif value is None or isinstance(value, (float, Undefined)):
            return 24
        else:
            raise SecurityError(f"a template cannot write a {type(value).__name__}")
        if size > MAX_SIZE:
            raise BudgetError(f"a value of more than {MAX_SIZE} characters")
        return size

    def looked_at(self, value: Any) -> Any:
        """A value that is compared or made of others: paid for."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.weigh(value)
        return value

    def made(self, value: Any) -> Any:
        """What a call or filter gave: paid for, or to be paid for as it is read."""
        if isinstance(value, (str, list, tuple, dict)):
            self.spend(len(value))
        elif isinstance(value, Iterator):
            return self._read(value)
        return value

    def _read(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(STEP)
            yield item


def budget_of(context: Context) -> Budget:
    """The budget of the rendering that a context belongs to."""
    budget: Budget = context.parent[BUDGET]
    return budget
