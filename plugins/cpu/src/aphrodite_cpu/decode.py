"""Attention of sequences with one new token: one native call a layer, which reads keys and values where they lie."""

from __future__ import annotations

from collections.abc import Callable

import torch

import aphrodite_kernels_cpu as native
from aphrodite.plugin import Binding, Facts

Run = Callable[[int], None]


def takes(facts: Facts) -> bool:
    """Whether the native kernel knows heads of these sizes."""
    widest: int = max(facts["D"], facts["Dv"])
    return widest <= native.MAX_HEAD_DIM


def bind(binding: Binding) -> Run:
    """A call for one layer: it attends for those of the first n sequences that have one new token, and no others."""
    args, facts = binding.args, binding.facts
    out, lse, q, tables = (args[name] for name in ("out", "lse", "q", "tables"))
    k, v = args["cache"].canonical()
    sinks = None if args["sinks"] is None else args["sinks"].float()
    tensors = (_pointer(out), _pointer(lse), _pointer(q), _pointer(k), _pointer(v))
    indices = (_pointer(tables), _pointer(args["seq_lens"]), _pointer(args["cu_q"]), _pointer(sinks))
    sizes = (facts["Hk"], facts["Hq"] // facts["Hk"], facts["D"], facts["Dv"], args["cache"].block_size)
    out_strides, q_strides = (out.stride(0), out.stride(1)), (q.stride(0), q.stride(1))
    k_strides, v_strides = k.stride()[:3], v.stride()[:3]
    lse_stride, table_stride = 0 if lse is None else lse.stride(0), tables.stride(0)
    numbers = (args["window"], args["scale"], args["softcap"])
    dtypes = (native.DTYPES[facts["dtype"]], native.DTYPES[facts["X"]])

    def run(num_seqs: int, sinks: torch.Tensor | None = sinks) -> None:  # sinks: to keep their memory
        native.attn_decode(
            *tensors, *indices, num_seqs, *sizes,
            out_strides, lse_stride, q_strides, k_strides, v_strides, table_stride, *numbers, *dtypes,
        )  # fmt: skip

    return run


def _pointer(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
