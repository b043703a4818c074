"""Kernels of the CPU plugin: adapters to aphrodite-kernels-cpu, and attention over torch's fused one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import aphrodite_kernels_cpu as native
from aphrodite.plugin import NATIVE, PORTABLE, Binding, C, Dims, Flag, Kernel, KVView, Run

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


def attention(
    out: torch.Tensor,
    q: torch.Tensor,
    cache: KVView,
    tables: torch.Tensor,
    seq_lens: torch.Tensor,
    cu_q: torch.Tensor,
    meta: torch.Tensor,
    scale: float,
    causal: bool = True,
    window: int = 0,
) -> None:
    """attn_paged@1, a sequence at a time, on torch's fused attention. Rows of padding are left as they are."""
    keys, values = cache.canonical()
    bounds = cu_q.tolist()
    for s, length in enumerate(seq_lens.tolist()):
        start, end = bounds[s], bounds[s + 1]
        if start == end:
            continue
        blocks = tables[s, : -(-length // cache.block_size)].long()
        k = keys[blocks].flatten(0, 1)[:length].transpose(0, 1)  # [Hk, L, D]
        v = values[blocks].flatten(0, 1)[:length].transpose(0, 1)
        mask = _mask(end - start, length, causal, window)
        y = F.scaled_dot_product_attention(
            q[None, start:end].transpose(1, 2), k[None], v[None], attn_mask=mask, scale=scale, enable_gqa=True
        )
        out[start:end] = y[0].transpose(0, 1)


def _mask(num_q: int, length: int, causal: bool, window: int) -> torch.Tensor | None:
    """[num_q, length], true where a query sees a key; None when it sees all."""
    if (num_q == 1 or not causal) and not (0 < window < length):
        return None
    position = torch.arange(length - num_q, length)[:, None]
    key = torch.arange(length)
    seen = key <= position if causal else key.expand(num_q, length) >= 0
    return seen & (key > position - window) if window else seen


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
    Kernel(
        "attn_paged@1",
        "cpu.attention",
        fn=attention,
        where=C(dtype={"f32", "bf16", "f16"}, features={"causal", "window"}),
        tier=PORTABLE,
        flags=Flag.ALLOCATES | Flag.RUN_STABLE,
    ),
)
