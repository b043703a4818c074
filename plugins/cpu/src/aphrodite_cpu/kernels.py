"""Kernels of the CPU plugin: adapters to aphrodite-kernels-cpu, and attention over torch's fused one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import aphrodite_kernels_cpu as native
from aphrodite.plugin import NATIVE, PORTABLE, Binding, C, Dims, Flag, Kernel, KVView, Run, WeightLayout

_STABLE = Flag.RUN_STABLE | Flag.BATCH_INVARIANT | Flag.SHAPE_STABLE
_DTYPES = frozenset(native.DTYPES)


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
    """linear@1 as one product of oneDNN's. On few rows it takes a third to a half of the time of torch's own, which
    reads the weights in their plain order."""
    out, x, w, bias = (binding.args[name] for name in ("out", "x", "w", "bias"))
    rows, product = binding.extents["x"], torch.ops.mkldnn._linear_pointwise

    def run(dims: Dims) -> None:
        num = rows.at(dims)
        if num:
            out[:num] = product(x[:num], w.data, bias, "none", [], "")

    return run


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
    softcap: float = 0.0,
) -> None:
    """attn_paged@1, a sequence at a time, on torch's fused attention, which knows no soft cap: scores that have one are
    written out. Rows of padding are left as they are."""
    keys, values = cache.canonical()
    bounds = cu_q.tolist()
    for s, length in enumerate(seq_lens.tolist()):
        start, end = bounds[s], bounds[s + 1]
        if start == end:
            continue
        first = max(0, length - (end - start) - window + 1) if window else 0  # the first key that a query sees
        skipped = first // cache.block_size
        blocks = tables[s, skipped : -(-length // cache.block_size)]
        held = slice(first - skipped * cache.block_size, length - skipped * cache.block_size)
        # index_select copies whole blocks: five times as fast as keys[blocks]
        k = keys.index_select(0, blocks).flatten(0, 1)[held].transpose(0, 1)  # [Hk, L, D]
        v = values.index_select(0, blocks).flatten(0, 1)[held].transpose(0, 1)
        mask = _mask(end - start, first, length, causal, window)
        new = q[start:end].transpose(0, 1)
        if softcap:
            y = _capped(new, k, v, mask, scale, softcap)
        else:
            y = F.scaled_dot_product_attention(
                new[None], k[None], v[None], attn_mask=mask, scale=scale, enable_gqa=True
            )[0]
        out[start:end] = y.transpose(0, 1)


def _capped(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float, softcap: float
) -> torch.Tensor:
    """q [Hq, Q, D], k and v [Hk, L, D] -> [Hq, Q, D], in float32."""
    scores = q.float().unflatten(0, (k.shape[0], -1)).flatten(1, 2) @ k.float().transpose(1, 2)  # [Hk, G Q, L]
    scores = scores.mul_(scale / softcap).tanh_().mul_(softcap).unflatten(1, (-1, q.shape[1]))
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    y: torch.Tensor = scores.softmax(-1).flatten(1, 2) @ v.float()
    return y.unflatten(1, (-1, q.shape[1])).flatten(0, 1)  # type: ignore[no-any-return]


def _mask(num_q: int, first: int, length: int, causal: bool, window: int) -> torch.Tensor | None:
    """[num_q, length - first], true where a query sees a key; None when it sees all."""
    if (num_q == 1 or not causal) and not (0 < window < length and num_q > 1):
        return None
    position = torch.arange(length - num_q, length)[:, None]
    key = torch.arange(first, length)
    seen = key <= position if causal else key.expand(num_q, len(key)) >= 0
    return seen & (key > position - window) if window else seen


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
    Kernel(
        "attn_paged@1",
        "cpu.attention",
        fn=attention,
        where=C(dtype={"f32", "bf16", "f16"}, features={"causal", "window", "softcap"}),
        tier=PORTABLE,
        flags=Flag.ALLOCATES | Flag.RUN_STABLE,
    ),
)
