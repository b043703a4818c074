"""Values in messages: as Python writes them while they are short, and in no time when they are not."""

from __future__ import annotations

import time
from typing import Any

import pytest

from aphrodite.types.shown import shown


@pytest.mark.parametrize(
    "value",
    [None, True, 7, -0.5, "", "a'b", "\ud800", b"x", [], (), {}, (1,), (1, 2), [1, [2, {"a": None}]], {"a": [1, (2,)]},
     {1: {2: {3: []}}}, "x" * 58],
    ids=repr,
)  # fmt: skip
def test_a_short_value_is_as_python_writes_it(value: Any) -> None:
    assert shown(value) == repr(value)


@pytest.mark.parametrize(
    "value",
    ["x" * 10**7, [1] * 10**6, [[[[1]]]] * 10**5, {at: [at] for at in range(10**5)}, [["a" * 10**6] * 3] * 3],
    ids=lambda value: type(value).__name__,
)
def test_a_long_value_is_cut_and_not_read_to_its_end(value: Any) -> None:
    began = time.monotonic()
    found = shown(value)
    assert time.monotonic() - began < 0.05
    assert len(found) == 60 and found.endswith("...")
    start = value[:20] if isinstance(value, (str, list)) else dict(list(value.items())[:20])
    assert repr(start).startswith(found[:20])
