"""What methods, filters and operators cost, which can make much of little: paid for before they run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from aphrodite.text.sandbox.budget import CALL, MAX_SIZE, STEP, Budget, BudgetError

_MAX_BITS = 4096
_COMPARING = frozenset({"dictsort", "groupby", "index", "max", "min", "sort", "unique"})
_QUICK = frozenset({"count", "d", "default", "first", "last", "length"})
_WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)")
_WIDE_BRACES = re.compile(r"\{[^{}]*:[^{}]*(?:\d{4}|\{)")


def pay_function(budget: Budget, name: str, owner: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Pay for a method of a value or a filter, as much as its result can be larger than what it reads.

    owner  the value that it is a method of, or that is filtered
    """
    if isinstance(owner, str):
        budget.spend(len(owner))
    elif name in _COMPARING and isinstance(owner, (list, tuple, dict, range)):
        budget.weigh(owner)
        budget.spend(CALL * len(owner))
    elif isinstance(owner, (list, tuple, range)) and name not in _QUICK:
        budget.spend(len(owner))
    every = [*args, *kwargs.values()]
    numbers = [abs(arg) for arg in every if isinstance(arg, int)]
    if any(number > MAX_SIZE for number in numbers) and name != "default":
        raise BudgetError(f"{name} with {max(numbers)}")
    if name in ("center", "ljust", "rjust", "zfill", "batch", "slice", "expandtabs", "indent", "truncate"):
        lines = 1 + (owner.count("\n") + owner.count("\t") if isinstance(owner, str) else 0)
        budget.spend((sum(numbers) + sum(len(arg) for arg in every if isinstance(arg, str))) * lines)
    elif name == "replace" and len(every) >= 2:
        budget.spend(str(owner).count(str(every[0])) * budget.weigh(every[1]))
    elif name == "join":
        text, items = (owner, every[:1]) if isinstance(owner, str) and every else ("", [owner, *every])
        count = sum(len(item) for item in items if isinstance(item, (list, tuple, dict, str)))
        glue = max([len(text), *(len(item) for item in every if isinstance(item, str))])
        budget.spend(sum(map(budget.weigh, items)) + glue * count)
    elif name in ("tojson", "string", "escape", "e", "urlencode"):
        others = sum(budget.weigh(arg) for arg in every if not isinstance(arg, int))
        budget.spend(budget.weigh(owner) * (8 + sum(numbers) + others))
    elif name == "round" and any(number > 100 for number in numbers):
        raise BudgetError(f"round with {max(numbers)}")
    elif name == "sum" and not all(isinstance(arg, (int, float, str)) or arg is None for arg in every):
        raise BudgetError("sum of what are no numbers")


def pay_braces(budget: Budget, text: str, values: Any) -> None:
    """Pay for `text.format(values)`, by all values at all its fields."""
    _pay_format(budget, text, values, _WIDE_BRACES, "{")


def pay_percent(budget: Budget, text: str, values: Any) -> None:
    """Pay for `text % values`, by all values at all its fields."""
    _pay_format(budget, text, values, _WIDE_PERCENT, "%")


def pay_operator(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Pay for an operator whose result can be large."""
    budget.spend(STEP)
    both = (left, right)
    sizes = [len(value) for value in both if isinstance(value, (str, list, tuple))]
    if not sizes and any(isinstance(value, int) and value.bit_length() > _MAX_BITS for value in both):
        raise BudgetError(f"a number of more than {_MAX_BITS} bits")
    if operator == "+" and sizes:
        budget.spend(sum(sizes))
    elif operator == "%" and isinstance(left, str):
        pay_percent(budget, left, right)
    elif operator == "*" and sizes:
        budget.spend(sizes[0] * max((value for value in both if isinstance(value, int)), default=0))
    elif operator in ("*", "**") and all(isinstance(value, int) for value in both):
        bits = left.bit_length()
        if (bits * right if operator == "**" else bits + right.bit_length()) > _MAX_BITS:
            raise BudgetError(f"a number of more than {_MAX_BITS} bits")


def _pay_format(budget: Budget, text: str, values: Any, wide: re.Pattern[str], mark: str) -> None:
    if wide.search(text):
        raise BudgetError("a format with a field of 1000 characters or more")
    budget.spend(len(text) + text.count(mark) * (1000 + budget.weigh(values)))
