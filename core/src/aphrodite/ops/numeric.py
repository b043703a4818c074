"""Small helpers that the torch forms share."""

from __future__ import annotations

import torch

from aphrodite.platform.layout import Packed


def wide(x: torch.Tensor) -> torch.Tensor:
    """The type that arithmetic is done in: float64 stays, everything narrower is widened to float32."""
    return x if x.dtype == torch.float64 else x.float()


def matrix(weight: Packed | torch.Tensor) -> torch.Tensor:
    """The [N, K] tensor of a weight, or [E, N, K] of a stack, in the plain layout, which alone torch forms read."""
    if isinstance(weight, Packed):
        assert weight.layout.name == "plain", f"torch forms read plain weights, not {weight.layout.name}"
        data: torch.Tensor = weight.data
        return data
    return weight


def generator(seed: int) -> torch.Generator:
    """A seeded generator for examples."""
    return torch.Generator().manual_seed(seed)
