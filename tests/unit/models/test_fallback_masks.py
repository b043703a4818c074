"""What a mask function lets a token see is found by asking it, whatever it is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    or_masks,
    sliding_window_causal_mask_function,
)

from aphrodite.models.fallback.masks import Mask, read_mask


def test_causal_and_sliding_masks_are_known() -> None:
    assert read_mask(causal_mask_function) == Mask(0)
    for window in (1, 2, 7, 64, 4096, 131072):
        assert read_mask(sliding_window_causal_mask_function(window)) == Mask(window)
    both = and_masks(sliding_window_causal_mask_function(9), sliding_window_causal_mask_function(5))
    assert read_mask(both) == Mask(5)
    assert read_mask(or_masks(causal_mask_function, sliding_window_causal_mask_function(5))) == Mask(0)


def sees_even(batch: Any, head: Any, query: Any, key: Any) -> Any:
    return (key <= query) & ((key % 2 == 0) | (key == query))


def sees_a_sink(batch: Any, head: Any, query: Any, key: Any) -> Any:
    return (key <= query) & ((key == 0) | (key > query - 4))


def sees_before(batch: Any, head: Any, query: Any, key: Any) -> Any:
    return key < query


def sees_a_prefix(batch: Any, head: Any, query: Any, key: Any) -> Any:
    return (key <= query) | (key < 4)


def grows(batch: Any, head: Any, query: Any, key: Any) -> Any:
    return (key <= query) & (key >= query // 2)


def of_the_step(batch: Any, head: Any, query: Any, key: Any) -> Any:
    return torch.ones(3, dtype=torch.bool, device="meta")[key.clamp(max=2)]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (bidirectional_mask_function, "bidirectional"),
        (sees_a_prefix, "bidirectional"),
        (chunked_causal_mask_function(64, torch.zeros(1, dtype=torch.int64)), "chunks"),
        (chunked_causal_mask_function(8192, torch.zeros(1, dtype=torch.int64)), "chunks"),
        (sees_even, "holes"),
        (sees_a_sink, "holes"),
        (sees_before, "does not see itself"),
        (grows, "neither causal nor sliding"),
        (of_the_step, "depend on more than positions"),
    ],
)
def test_any_other_mask_is_named(function: Any, reason: str) -> None:
    assert reason in (read_mask(function).why or "")
