"""Triton kernels for the decode step of a Llama. Launch-bound work fused where the contract has a composite for it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from aphrodite.plugin import NATIVE, C, Flag, Kernel, KVView

_SAFE = Flag.CAPTURE_SAFE | Flag.RUN_STABLE
_HALF = {"bf16", "f16"}


@triton.jit
def _rms_norm(out, x, res, w, out_stride, x_stride, res_stride, width, eps, offset, ADD: tl.constexpr, N: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    mask = column < width
    value = tl.load(x + row * x_stride + column, mask, 0.0).to(tl.float32)
    if ADD:
        place = res + row * res_stride + column
        total = (tl.load(place, mask, 0.0).to(tl.float32) + value).to(res.dtype.element_ty)
        tl.store(place, total, mask)
        value = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value) / width + eps)
    weight = tl.load(w + column, mask, 0.0).to(tl.float32) + offset
    tl.store(out + row * out_stride + column, (value * scale * weight).to(out.dtype.element_ty), mask)


def rms_norm(out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, eps: float, offset: int = 0) -> None:
    """rms_norm@1, one program a row."""
    rows, width = x.shape
    size = triton.next_power_of_2(width)
    _rms_norm[(rows,)](out, x, x, w, out.stride(0), x.stride(0), 0, width, eps, offset, ADD=False, N=size, num_warps=8)


def add_rms_norm(x: torch.Tensor, res: torch.Tensor, w: torch.Tensor, eps: float, offset: int = 0) -> None:
    """add_rms_norm@1, one program a row."""
    rows, width = x.shape
    size = triton.next_power_of_2(width)
    _rms_norm[(rows,)](
        x, x, res, w, x.stride(0), x.stride(0), res.stride(0), width, eps, offset, ADD=True, N=size, num_warps=8
    )


@triton.jit
def _silu_mul(out, x, out_stride, x_stride, width, N: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * N + tl.arange(0, N)
    mask = column < width
    gate = tl.load(x + row * x_stride + column, mask, 0.0).to(tl.float32)
    up = tl.load(x + row * x_stride + width + column, mask, 0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask)


def act_mul(out: torch.Tensor, x: torch.Tensor, kind: str) -> None:
    """act_mul@1 for silu."""
    rows, width = out.shape
    _silu_mul[(rows, triton.cdiv(width, 1024))](out, x, out.stride(0), x.stride(0), width, N=1024)


@triton.jit
def _rope(q, k, pos, table, q_stride, k_stride, heads_q, half, D: tl.constexpr, N: tl.constexpr):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, N)
    mask = column < half
    angle = table + tl.load(pos + row) * (2 * half) + column
    cos, sin = tl.load(angle, mask, 0.0), tl.load(angle + half, mask, 0.0)
    if head < heads_q:
        base = q + row * q_stride + head * D + column
    else:
        base = k + row * k_stride + (head - heads_q) * D + column
    a, b = tl.load(base, mask, 0.0).to(tl.float32), tl.load(base + half, mask, 0.0).to(tl.float32)
    tl.store(base, (a * cos - b * sin).to(q.dtype.element_ty), mask)
    tl.store(base + half, (b * cos + a * sin).to(q.dtype.element_ty), mask)


def rope(q: torch.Tensor, k: torch.Tensor, pos: torch.Tensor, cos_sin: torch.Tensor, style: str) -> None:
    """rope@1, neox pairs, one program a token and head."""
    tokens, heads, dim = q.shape
    half = cos_sin.shape[1] // 2
    _rope[(tokens, heads + k.shape[1])](
        q, k, pos, cos_sin, q.stride(0), k.stride(0), heads, half, D=dim, N=triton.next_power_of_2(half), num_warps=1
    )


@triton.jit
def _kv_write(kc, vc, k, v, slots, k_stride, v_stride, blk_stride, head_stride, SIZE: tl.constexpr, D: tl.constexpr):
    row, head, column = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, D)
    slot = tl.maximum(tl.load(slots + row), 0)
    target = slot // SIZE * blk_stride + head * head_stride + slot % SIZE * D + column
    tl.store(kc + target, tl.load(k + row * k_stride + head * D + column))
    tl.store(vc + target, tl.load(v + row * v_stride + head * D + column))


def kv_write(cache: KVView, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
    """kv_write@1 into hnd blocks."""
    tokens, heads, dim = k.shape
    strides = k.stride(0), v.stride(0), cache.k.stride(0), cache.k.stride(1)
    _kv_write[(tokens, heads)](cache.k, cache.v, k, v, slots, *strides, SIZE=cache.block_size, D=dim, num_warps=1)


@triton.jit
def _decode(
    out, q, kc, vc, tables, lens, q_stride, out_stride, table_stride, blk_stride, head_stride, scale,
    G: tl.constexpr, GP: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    seq, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(lens + seq)
    group, dim, key = tl.arange(0, GP), tl.arange(0, D), tl.arange(0, N)
    mine = (group < G)[:, None]
    head = kv_head * G + group
    query = tl.load(q + seq * q_stride + head[:, None] * D + dim[None, :], mine, 0.0)
    best = tl.full((GP,), -1e30, tl.float32)
    total = tl.zeros((GP,), tl.float32)
    mixed = tl.zeros((GP, D), tl.float32)
    for start in range(0, length, N):
        at = start + key
        seen = at < length
        block = tl.load(tables + seq * table_stride + at // SIZE, seen, 0).to(tl.int64)
        place = (block * blk_stride + kv_head * head_stride + at % SIZE * D)[:, None] + dim[None, :]
        keys = tl.load(kc + place, seen[:, None], 0.0)
        score = tl.where(seen[None, :], tl.dot(query, tl.trans(keys)) * scale, -1e30)
        top = tl.maximum(best, tl.max(score, 1))
        weight = tl.exp(score - top[:, None])
        fade = tl.exp(best - top)
        values = tl.load(vc + place, seen[:, None], 0.0)
        total = total * fade + tl.sum(weight, 1)
        mixed = mixed * fade[:, None] + tl.dot(weight.to(values.dtype), values)
        best = top
    result = mixed / tl.maximum(total, 1e-30)[:, None]
    tl.store(out + seq * out_stride + head[:, None] * D + dim[None, :], result.to(out.dtype.element_ty), mine)


def decode_attention(
    out: torch.Tensor,
    q: torch.Tensor,
    cache: KVView,
    tables: torch.Tensor,
    seq_lens: torch.Tensor,
    cu_q: torch.Tensor,
    meta: torch.Tensor,
    scale: float,
) -> None:
    """attn_paged@1 where every sequence has one new token: one program a sequence and kv head, keys 64 at a time."""
    group = q.shape[1] // cache.k.shape[1]
    strides = q.stride(0), out.stride(0), tables.stride(0), cache.k.stride(0), cache.k.stride(1)
    _decode[(q.shape[0], cache.k.shape[1])](
        out, q, cache.k, cache.v, tables, seq_lens, *strides, scale,
        G=group, GP=max(16, triton.next_power_of_2(group)), SIZE=cache.block_size, D=q.shape[2], N=64,
    )  # fmt: skip


KERNELS = (
    Kernel("rms_norm@1", "proto.rms_norm", fn=rms_norm, where=C(features={"offset"}), tier=NATIVE, flags=_SAFE),
    Kernel("add_rms_norm@1", "proto.add_rms_norm", fn=add_rms_norm, where=C(features={"offset"}), flags=_SAFE),
    Kernel("act_mul@1", "proto.act_mul", fn=act_mul, where=C(kind="silu"), tier=NATIVE, flags=_SAFE),
    Kernel("rope@1", "proto.rope", fn=rope, where=C(style="neox"), tier=NATIVE, flags=_SAFE),
    Kernel("kv_write@1", "proto.kv_write", fn=kv_write, where=C(layout="hnd", D={64, 128}), flags=_SAFE),
    Kernel(
        "attn_paged@1",
        "proto.decode_attention",
        fn=decode_attention,
        where=C(layout="hnd", dtype=_HALF, D={64, 128}, max_q=1),
        tier=NATIVE,
        flags=_SAFE,
    ),
)
