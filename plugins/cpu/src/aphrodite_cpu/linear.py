"""Products with weights that oneDNN has packed."""

from __future__ import annotations

import math

import torch

from aphrodite.plugin import ITEMSIZE, PORTABLE, Binding, C, Dims, Flag, Kernel, Run, WeightLayout
from aphrodite_cpu import machine

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


def on_ladder(num: int) -> int:
    """The number of rows that a product of `num` rows is done with: 1 to 16, then 8 for each doubling, at most an
    eighth more. oneDNN compiles a product for each number of rows that it meets, and keeps a thousand of them, some
    hundreds of megabytes."""
    step = 1 << max(0, (num - 1).bit_length() - 4)
    return -(-num // step) * step


def onednn_dtypes() -> set[str]:
    """Types that this torch multiplies through oneDNN with packed weights; none where it was built without."""
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_linear_pointwise"):
        return set()
    return {"f32"} | ({"bf16"} if ops._is_mkldnn_bf16_supported() else set())


def product(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x[T, K] times a packed w[N, K], by oneDNN. MemoryError where it has none to compile a product in: it says only
    that it could not create a primitive. Of what it cannot do at all it could not create the descriptor."""
    try:
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, w, bias, "none", [], "")
    except RuntimeError as error:
        if "could not create a primitive" in str(error) and "descriptor" not in str(error):
            raise MemoryError(f"oneDNN: {error}") from error
        raise
    return found


def bind(binding: Binding) -> Run:
    """linear@1 by oneDNN, in pieces of rows: its results come in memory of its own, which is warm while it is small.

    On few rows this takes a third to a half of the time of torch's own product, which reads the weights in their plain
    order. On many, the other library behind torch is faster where there are no 512-bit vectors (1.1 to 1.2 times, AMD
    Zen 3), enough to put a matrix back into plain order for each product.
    """
    out, x, w, bias = (binding.args[name] for name in ("out", "x", "w", "bias"))
    rows = binding.extents["x"]
    plain_from = _PLAIN_ROWS if _plain_is_faster(binding.facts["dtype"], w.shape) else math.inf

    def run(dims: Dims) -> None:
        num = rows.at(dims)
        if num >= plain_from:
            matrix = w.data.to_dense().t()
            if bias is None:
                torch.mm(x[:num], matrix, out=out[:num])
            else:
                torch.addmm(bias, x[:num], matrix, out=out[:num])
            return
        for start in range(0, num, _PIECE_ROWS):
            stop = min(num, start + _PIECE_ROWS)
            more = min(start + on_ladder(stop - start), len(x))  # what lies in further rows is of no matter
            found = product(x[start:more], w.data, bias)
            out[start:stop] = found[: stop - start]

    return run


def _plain_is_faster(dtype: str, shape: tuple[int, ...]) -> bool:
    flags = machine.flags()
    small = math.prod(shape) * ITEMSIZE[dtype] <= _PLAIN_BYTES
    return dtype == "f32" and small and "avx2" in flags and "avx512f" not in flags


LINEAR = Kernel(
    "linear@1",
    "cpu.linear",
    bind=bind,
    where=C(weights=ONEDNN.name, dtype=onednn_dtypes(), features={"bias"}),
    tier=PORTABLE,
    flags=Flag.ALLOCATES | Flag.RUN_STABLE,
)
