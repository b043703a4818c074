"""Kernels of the CPU plugin: adapters to aphrodite-kernels-cpu and to oneDNN's products."""

from __future__ import annotations

import math

import torch

import aphrodite_kernels_cpu as native
from aphrodite.plugin import NATIVE, PORTABLE, Binding, C, Dims, Flag, Kernel, Run, WeightLayout
from aphrodite_cpu import machine
from aphrodite_cpu.attention import ATTENTION

_STABLE = Flag.RUN_STABLE | Flag.BATCH_INVARIANT | Flag.SHAPE_STABLE
_DTYPES = frozenset(native.DTYPES)
_PIECE_ROWS = 256
_PLAIN_ROWS = 512  # from here on it pays to unpack
_PLAIN_BYTES = 128 << 20  # of a matrix that is unpacked: memory that nobody has planned for


def _plain_shape(n: int, k: int) -> tuple[int, ...]:
    return (n, k)


def _prepack(matrix: torch.Tensor) -> torch.Tensor:
    """w[N, K] in the order that oneDNN's products read, which only oneDNN knows."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix, None)
    return packed


ONEDNN = WeightLayout("cpu.onednn", _plain_shape, finish=_prepack)


def onednn_dtypes() -> set[str]:
    """Types that this torch multiplies through oneDNN with packed weights; none where it was built without."""
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_linear_pointwise"):
        return set()
    return {"f32"} | ({"bf16"} if ops._is_mkldnn_bf16_supported() else set())


def bind_linear(binding: Binding) -> Run:
    """linear@1 by oneDNN, in pieces of rows: its results come in memory of its own, which is warm while it is small.

    On few rows this takes a third to a half of the time of torch's own product, which reads the weights in their plain
    order. On many, the other library behind torch is faster where there are no 512-bit vectors (1.1 to 1.2 times, AMD
    Zen 3), enough to put a matrix back into plain order for each product.
    """
    out, x, w, bias = (binding.args[name] for name in ("out", "x", "w", "bias"))
    rows, product = binding.extents["x"], torch.ops.mkldnn._linear_pointwise
    plain_from = _PLAIN_ROWS if _plain_is_faster(binding.facts["dtype"], w.shape) else binding.bounds.T + 1

    def run(dims: Dims) -> None:
        num = rows.at(dims)
        if num >= plain_from:
            matrix = w.data.to_dense().t()
            torch.mm(x[:num], matrix, out=out[:num]) if bias is None else torch.addmm(
                bias, x[:num], matrix, out=out[:num]
            )
            return
        for start in range(0, num, _PIECE_ROWS):
            stop = min(num, start + _PIECE_ROWS)
            out[start:stop] = product(x[start:stop], w.data, bias, "none", [], "")

    return run


def _plain_is_faster(dtype: str, shape: tuple[int, ...]) -> bool:
    return dtype == "f32" and math.prod(shape) * 4 <= _PLAIN_BYTES and "avx512f" not in machine.flags()


def bind_rms_norm(binding: Binding) -> Run:
    """rms_norm@1 as one native call; addresses and strides are fixed here."""
    out, x, w = (binding.args[name] for name in ("out", "x", "w"))
    rows = binding.extents["x"]
    width, strides = x.shape[1], (out.stride(0), x.stride(0))
    eps, offset, dtype = binding.args["eps"], binding.args["offset"], native.DTYPES[binding.facts["dtype"]]
    pointers = out.data_ptr(), x.data_ptr(), w.data_ptr()

    def run(dims: Dims) -> None:
        native.rms_norm(*pointers, rows.at(dims), width, *strides, eps, offset, dtype)

    return run


def bind_act_mul(binding: Binding) -> Run:
    """act_mul@1 as one native call."""
    out, x = binding.args["out"], binding.args["x"]
    rows = binding.extents["x"]
    width, strides = out.shape[1], (out.stride(0), x.stride(0))
    kind, dtype = native.KINDS[binding.args["kind"]], native.DTYPES[binding.facts["dtype"]]
    pointers = out.data_ptr(), x.data_ptr()

    def run(dims: Dims) -> None:
        native.act_mul(*pointers, rows.at(dims), width, *strides, kind, dtype)

    return run


LINEAR = Kernel(
    "linear@1",
    "cpu.linear",
    bind=bind_linear,
    where=C(weights=ONEDNN.name, dtype=onednn_dtypes(), features={"bias"}),
    tier=PORTABLE,
    flags=Flag.ALLOCATES | Flag.RUN_STABLE,
)
KERNELS = (
    Kernel(
        "rms_norm@1",
        "cpu.rms_norm",
        bind=bind_rms_norm,
        where=C(dtype=_DTYPES, features={"offset"}),
        tier=NATIVE,
        flags=_STABLE,
    ),
    Kernel("act_mul@1", "cpu.act_mul", bind=bind_act_mul, where=C(dtype=_DTYPES), tier=NATIVE, flags=_STABLE),
    ATTENTION,
)
