"""The CPU plugin's attention against float64, over every example of the operation that it serves."""

from __future__ import annotations

import pytest
import torch

from aphrodite.ops.attention import attn_paged
from aphrodite.ops.op import declared
from aphrodite_cpu.kernels import KERNELS, attention
from tests.unit.ops.truth import copies, truth

KERNEL = next(kernel for kernel in KERNELS if kernel.provider == "cpu.attention")
EPS = {"f32": torch.finfo(torch.float32).eps, "bf16": 2**-8, "f16": 2**-11}
MORE = (
    {},
    {"window": 1},
    {"window": 7},
    {"softcap": 2.0},
    {"softcap": 2.0, "window": 7},
    {"softcap": 1.0, "causal": False},
)


@pytest.mark.parametrize("dtype", sorted(EPS))
@pytest.mark.parametrize("more", MORE, ids=str)
def test_attention_with_every_window_and_cap(dtype: str, more: dict[str, object]) -> None:
    assert attn_paged.examples is not None
    assert set(more) <= set(KERNEL.where.features)
    for seed in range(2):
        for example in attn_paged.examples(dtype, seed):
            given = {**example.args, **more}
            if given["sinks"] is not None or given["lse"] is not None:
                continue
            args = copies(given)
            attention(**{name: args[name] for name in declared(attention)})
            value, scale = truth("attn_paged@1", given)["out"]
            error = abs(args["out"].double().numpy() - value)
            assert (error <= 2 * attn_paged.tolerance.c * EPS[dtype] * scale).all(), (example.label, error.max())
