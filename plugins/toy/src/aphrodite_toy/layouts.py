"""Layouts of the toy's own, unlike the core's, so that whoever assumes those finds out. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aphrodite.plugin import KVLayout, Piece, WeightLayout

if TYPE_CHECKING:
    import torch

THDKB = KVLayout("toy.thdkb", ("token", "head", "dim", "kv", "block"))
"""Neighbours in memory are the same number in different blocks."""


def _shape(n: int, k: int) -> tuple[int, ...]:
    return (k, n)


def _pack(rows: torch.Tensor, start: int, shape: tuple[int, int]) -> Piece:
    """Rows of w[N, K] are columns of the storage."""
    return Piece(1, start, rows.t())


COLUMNS = WeightLayout("toy.columns", _shape, _pack)
"""w[N, K] stored as [K, N]: a row of the storage is what one input feature gives to every output."""
