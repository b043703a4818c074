"""All operations and composites, by name."""

from __future__ import annotations

from collections.abc import Mapping

from aphrodite.ops import (
    activation,
    attention,
    elementwise,
    embedding,
    linear,
    logits,
    moe,
    norm,
    rope,
    rows,
    sampling,
)
from aphrodite.ops.composite import Composite
from aphrodite.ops.op import Op

_FAMILIES = (activation, attention, elementwise, embedding, linear, logits, moe, norm, rope, rows, sampling)
_NAMES = [value for family in _FAMILIES for value in vars(family).values()]

OPS: Mapping[str, Op] = {value.name: value for value in _NAMES if isinstance(value, Op)}
COMPOSITES: Mapping[str, Composite] = {value.name: value for value in _NAMES if isinstance(value, Composite)}
