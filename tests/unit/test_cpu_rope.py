"""The CPU plugin's rotary embedding: bit for bit the reference, in blocks of any size, float64 beside it."""

from __future__ import annotations

import pytest
import torch

import aphrodite_cpu.rope as cpu
from aphrodite.ops.rope import rope
from aphrodite.platform.dtypes import torch_dtype
from tests.unit.ops.truth import copies, exact, truth


@pytest.mark.parametrize("tokens", [1, 2, 256])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_every_example(dtype: str, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_TOKENS", tokens)
    assert rope.examples is not None
    eps = torch.finfo(torch_dtype(dtype)).eps
    for seed in range(3):
        for example in rope.examples(dtype, seed):
            ours, theirs = copies(example.args), copies(example.args)
            cpu.rope(**ours)
            rope.reference(**theirs)
            for name, (value, scale) in truth("rope@1", example.args).items():
                assert torch.equal(ours[name], theirs[name]), (example.label, name)
                assert (abs(exact(ours[name]) - value) <= rope.tolerance.c * eps * scale).all(), (example.label, name)
