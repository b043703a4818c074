"""What a mask function of Transformers lets a token see, found by asking it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from aphrodite.errors import told

FAR = 1 << 20  # a window beyond is none: no token is that far from another here
_ROWS = (0, 1, 2, 3, 5, 16, 63, 64, 65, 511, 1000, 4095, 8192, 65537, FAR)  # about the places where chunks may end
_BEYOND = 8  # later keys that each is asked about


@dataclass(frozen=True)
class Mask:
    """With window w > 0 a token sees itself and the w - 1 before it, with 0 all before it.

    why  this is neither; None if it is one of the two
    """

    window: int = 0
    why: str | None = None


def read_mask(function: Callable[..., Any]) -> Mask:
    """The mask that a function of (batch, head, query, key) describes."""
    try:
        rows = {query: _seen(function, query) for query in _ROWS}
    except Exception as error:  # it may hold tensors of the step, which no two steps have in common
        return Mask(why=f"masks that depend on more than positions ({told(error)})")
    first = {}
    for query, seen in rows.items():
        if bool(seen[query + 1 :].any()):
            return Mask(why="bidirectional masks: tokens see later ones")
        if not bool(seen[query]):
            return Mask(why="masks in which a token does not see itself")
        first[query] = int(seen.int().argmax())  # the first key seen
        if not bool(seen[first[query] : query + 1].all()):
            return Mask(why="masks with holes: neither causal nor sliding")
    window = FAR + 1 - first[FAR] if first[FAR] else 0
    if any(at != (max(0, query - window + 1) if window else 0) for query, at in first.items()):
        return Mask(why="masks that are neither causal nor sliding, such as those of chunks")
    return Mask(window)


def _seen(function: Callable[..., Any], query: int) -> torch.Tensor:
    """Which of the keys 0 .. query + _BEYOND the query sees."""
    keys = torch.arange(query + 1 + _BEYOND)
    batch, head = torch.tensor(0), torch.tensor(0)
    seen = function(batch, head, torch.tensor([query]), keys)
    assert isinstance(seen, torch.Tensor)
    return seen.to("cpu", torch.bool).expand(len(keys))
