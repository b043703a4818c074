"""Token embedding, and the selection of tokens whose logits are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from aphrodite.ops import elementwise
from aphrodite.ops import embedding as ops
from aphrodite.platform.dtypes import torch_dtype
from aphrodite.program.trace import Tracer
from aphrodite.program.values import Value, WeightRef


@dataclass(frozen=True)
class Embedding:
    """Rows of a [V, H] table, times a factor."""

    site: str
    weight: WeightRef
    scale: float = 1.0

    def __call__(self, t: Tracer, token_ids: Value) -> Value:
        """token_ids [T] -> [T, H]"""
        y: Value = t.call(ops.gather_rows, self.site, src=self.weight, idx=token_ids)
        if self.scale != 1.0:
            factor = torch.tensor(self.scale, dtype=torch_dtype(y.dtype)).item()  # models are trained with it rounded
            t.call(elementwise.scale, f"{self.site}.scale", x=y, factor=factor)
        return y


def select(t: Tracer, site: str, x: Value, rows: Value) -> Value:
    """x [T, H], rows [R] -> [R, H]"""
    y: Value = t.call(ops.gather_rows, site, src=x, idx=rows)
    return y
