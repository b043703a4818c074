"""Token embedding, and the selection of tokens whose logits are wanted."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.ops import embedding as ops
from aphrodite.program.trace import Tracer
from aphrodite.program.values import Value, WeightRef


@dataclass(frozen=True)
class Embedding:
    """Rows of a [V, H] table."""

    site: str
    weight: WeightRef

    def __call__(self, t: Tracer, token_ids: Value) -> Value:
        """token_ids [T] -> [T, H]"""
        y: Value = t.call(ops.gather_rows, self.site, src=self.weight, idx=token_ids)
        return y


def select(t: Tracer, site: str, x: Value, rows: Value) -> Value:
    """x [T, H], rows [R] -> [R, H]"""
    y: Value = t.call(ops.gather_rows, site, src=x, idx=rows)
    return y
