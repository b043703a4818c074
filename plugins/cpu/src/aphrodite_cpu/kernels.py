"""Kernels of the CPU plugin: adapters to aphrodite-kernels-cpu, and the table of all."""

from __future__ import annotations

import aphrodite_kernels_cpu as native
from aphrodite.plugin import NATIVE, Binding, C, Dims, Flag, Kernel, Run
from aphrodite_cpu.attention import ATTENTION
from aphrodite_cpu.logits import LOGITS
from aphrodite_cpu.rope import ROPE
from aphrodite_cpu.sampling import SAMPLING

_STABLE = Flag.RUN_STABLE | Flag.BATCH_INVARIANT | Flag.SHAPE_STABLE
_DTYPES = frozenset(native.DTYPES)


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
    ROPE,
    *LOGITS,
    *SAMPLING,
)
