"""The CPU plugin's products of packed weights against float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from aphrodite.ops.kernel import Dims, Extent
from aphrodite.ops.linear import linear
from aphrodite.platform.dtypes import torch_dtype
from aphrodite.platform.layout import Packed
from aphrodite_cpu import linear as cpu
from aphrodite_cpu.linear import LINEAR, ONEDNN, onednn_dtypes
from tests.unit.ops.truth import exact, truth


def product(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, num: int) -> torch.Tensor:
    """The first `num` rows through the kernel, the others as they were: 7."""
    assert ONEDNN.finish is not None
    out = torch.full((x.shape[0], w.shape[0]), 7.0, dtype=x.dtype)
    packed = Packed(ONEDNN.finish(w), ONEDNN, tuple(w.shape), "f32")
    args = {"out": out, "x": x, "w": packed, "bias": bias}
    facts = {"dtype": "f32" if x.dtype == torch.float32 else "bf16"}
    site = SimpleNamespace(args=args, facts=facts, bounds=Dims(T=len(x)), extents={"x": Extent("T")})
    cpu.bind(cast("Any", site))(Dims(T=num))
    return out


@pytest.mark.parametrize("dtype", sorted(onednn_dtypes()))
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 32, 65])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (17, 9), (320, 64), (64, 513), (100, 768)])
@pytest.mark.parametrize("biased", [False, True])
def test_products_of_any_size(dtype: str, rows: int, n: int, k: int, biased: bool) -> None:
    g = torch.Generator().manual_seed(rows * 1000 + n + k)
    kind = torch_dtype(dtype)
    wide = torch.randn(rows + 3, k + 5, generator=g).to(kind)
    x, w = wide[:, 2 : 2 + k], torch.randn(n, k, generator=g).to(kind)  # rows that lie apart
    bias = torch.randn(n, generator=g).to(kind) if biased else None
    out = product(x, w, bias, rows)
    plain = Packed(w, ONEDNN, (n, k), dtype)
    value, scale = truth("linear@1", {"out": out[:rows], "x": x[:rows], "w": plain, "bias": bias})["out"]
    error = abs(exact(out[:rows]) - value)
    assert (error <= 2 * linear.tolerance.c * torch.finfo(kind).eps * scale).all(), error.max()
    assert (out[rows:] == 7).all()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_many_rows_in_pieces_or_of_plain_weights(plain: bool, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_PIECE_ROWS", 3)
    monkeypatch.setattr(cpu, "_PLAIN_ROWS", 8 if plain else 9)
    monkeypatch.setattr(cpu, "_plain_is_faster", lambda dtype, shape: True)
    for rows in (1, 3, 7, 8):
        test_products_of_any_size("f32", rows, 17, 9, biased)


def test_the_kernel_serves_the_types_that_this_torch_multiplies() -> None:
    facts = {"weights": ONEDNN.name, "features": frozenset({"bias"})}
    refused = {dtype for dtype in ("f32", "bf16", "f16") if LINEAR.where.refusal({**facts, "dtype": dtype})}
    assert refused == {"f32", "bf16", "f16"} - onednn_dtypes() and "f32" not in refused


def test_numbers_of_rows_are_few_and_little_more_than_asked_for() -> None:
    taken = [cpu.on_ladder(num) for num in range(1, 257)]
    assert all(num <= found <= num * 1.125 for num, found in enumerate(taken, start=1))
    assert taken[:16] == list(range(1, 17)) and taken[-1] == 256 and len(set(taken)) == 48


def test_rows_behind_the_last_are_neither_read_into_the_result_nor_written() -> None:
    """A product takes a few rows more than it was asked for; there may be anything in them, or none left."""
    g = torch.Generator().manual_seed(4)
    w = torch.randn(33, 20, generator=g)
    for rows, held in ((17, 30), (33, 33), (250, 251), (257, 300)):
        x = torch.randn(held, 20, generator=g)
        x[rows:] = float("nan")
        out = product(x, w, None, rows)
        assert torch.allclose(out[:rows], x[:rows] @ w.T, atol=1e-4) and (out[rows:] == 7).all()


def test_a_product_that_there_is_no_memory_to_compile_says_that_it_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says itself is that it could not create a primitive: an engine would take the device for lost."""
    assert ONEDNN.finish is not None
    x, w = torch.ones(2, 8), ONEDNN.finish(torch.ones(4, 8))
    with pytest.raises(RuntimeError, match="descriptor"):  # an error that stays what it is
        cpu.product(torch.ones(2, 9), w, None)

    def starved(*args: Any) -> torch.Tensor:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", starved)
    with pytest.raises(MemoryError, match="oneDNN: could not create a primitive"):
        cpu.product(x, w, None)
