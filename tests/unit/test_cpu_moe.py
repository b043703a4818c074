"""The CPU plugin's experts over packed weights against float64: every example of the operation, and what is read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import aphrodite_cpu.moe as cpu
from aphrodite.ops.kernel import Dims, Extent
from aphrodite.ops.moe import moe_experts
from aphrodite.platform.dtypes import torch_dtype
from aphrodite.platform.layout import Packed
from aphrodite_cpu.linear import ONEDNN, onednn_dtypes
from tests.unit.ops.truth import copies, exact, truth


def packed(weight: Packed) -> Packed:
    assert ONEDNN.finish is not None
    return Packed(tuple(ONEDNN.finish(matrix) for matrix in weight.data), ONEDNN, weight.shape, weight.dtype)


def run(args: dict[str, Any], dtype: str, num: int) -> None:
    e, h, i = args["w2"].shape
    facts = {"E": e, "H": h, "I": i, "k": args["ids"].shape[1], "dtype": dtype}
    given = args | {"w13": packed(args["w13"]), "w2": packed(args["w2"])}
    site = SimpleNamespace(args=given, facts=facts, extents={"x": Extent("T")})
    cpu.bind(cast("Any", site))(Dims(T=num))


@pytest.mark.parametrize("dtype", sorted(onednn_dtypes()))
@pytest.mark.parametrize("seed", range(3))
def test_every_example(dtype: str, seed: int) -> None:
    assert moe_experts.examples is not None
    eps = torch.finfo(torch_dtype(dtype)).eps
    for example in moe_experts.examples(dtype, seed):
        args = copies(example.args)
        run(args, dtype, len(args["x"]))
        value, scale = truth("moe_experts@1", example.args)["out"]
        error = abs(exact(args["out"]) - value)
        assert (error <= 2 * moe_experts.tolerance.c * eps * scale).all(), (example.label, error.max())


def test_rows_behind_the_step_are_left_alone_and_experts_without_tokens_unread() -> None:
    args = next(e.args for e in moe_experts.examples("f32", 0) if e.label.startswith("T=23"))  # type: ignore[misc]
    wanted = copies(args)
    run(wanted, "f32", len(args["x"]))
    few = copies(args)
    few["out"].fill_(7)
    chosen = set(few["ids"][:3].flatten().tolist())
    for expert in set(range(16)) - chosen:
        few["w13"].data[expert], few["w2"].data[expert] = torch.nan, torch.nan
    run(few, "f32", 3)
    torch.testing.assert_close(few["out"][:3], wanted["out"][:3])
    assert (few["out"][3:] == 7).all() and len(chosen) < 16
