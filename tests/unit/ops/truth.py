"""What the operations mean, a second time: numpy in float64, written from the contract and not from the torch forms.

`truth(name, args)` gives, for every argument that operation `name` writes, the exact value and the scale that
rounding errors are measured against: the sum of |a||b| of what was added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from aphrodite.platform.layout import KVLayout, KVView, Packed

Array = np.ndarray[Any, np.dtype[Any]]
Answers = dict[str, tuple[Array, Array]]


def exact(x: torch.Tensor) -> Array:
    """A tensor's values in float64 (integers stay what they are)."""
    return (x.double() if x.is_floating_point() else x).numpy().copy()


def cells(view: KVView) -> tuple[Array, Array]:
    """Keys and values as [block, token, head, dim] arrays, the axes put in order by the layout's own names."""
    rest = [axis for axis in view.layout.axes if axis != "kv"]
    letters = {"block": "b", "token": "t", "head": "h", "dim": "d"}
    rule = "".join(letters[axis] for axis in rest) + "->bthd"
    return np.einsum(rule, exact(view.k)), np.einsum(rule, exact(view.v))


def copy_of(value: Any, dtype: torch.dtype | None = None) -> Any:
    """The same argument in memory of its own, its floating-point tensors (float32 tables apart) as `dtype`."""
    if isinstance(value, KVView):
        return KVView(copy_of(value.k, dtype), copy_of(value.v, dtype), value.layout, value.block_size)
    if isinstance(value, Packed):
        return Packed(copy_of(value.data, dtype), value.layout, value.shape, value.dtype)
    if isinstance(value, torch.Tensor):
        return value.to(dtype, copy=True) if dtype and value.is_floating_point() else value.clone()
    return value


def copies(args: Mapping[str, Any], dtype: torch.dtype | None = None) -> dict[str, Any]:
    return {name: copy_of(value, dtype) for name, value in args.items()}


def kv_view(layout: KVLayout, k: torch.Tensor, v: torch.Tensor) -> KVView:
    """A cache in `layout` from keys and values [block, token, head, dim]."""
    rest = [axis for axis in layout.axes if axis != "kv"]
    order = [("block", "token", "head", "dim").index(axis) for axis in rest]
    return KVView(k.permute(order).contiguous(), v.permute(order).contiguous(), layout, k.shape[1])


# ---- one function an operation ------------------------------------------------------------------------------------


def add(res: torch.Tensor, x: torch.Tensor) -> Answers:
    a, b = exact(res), exact(x)
    return {"res": (a + b, abs(a) + abs(b))}


def rms_norm(x: torch.Tensor, w: torch.Tensor, eps: float, offset: int = 0, **_: Any) -> Answers:
    rows, weight = exact(x), exact(w)
    value = np.array([row / math.sqrt(math.fsum(row * row) / len(row) + eps) for row in rows]).reshape(rows.shape)
    value = value * (weight + offset)
    return {"out": (value, abs(value))}


def layer_norm(x: torch.Tensor, w: torch.Tensor, eps: float, b: torch.Tensor | None = None, **_: Any) -> Answers:
    rows, weight = exact(x), exact(w)
    value, size = np.zeros_like(rows), np.zeros_like(rows)
    for t, row in enumerate(rows):
        mean = math.fsum(row) / len(row)
        spread = math.sqrt(math.fsum((row - mean) ** 2) / len(row) + eps)
        value[t] = (row - mean) / spread * weight
        rough = abs(row).mean() + abs(row)  # of the difference from the mean, which every later figure inherits
        size[t] = rough / spread * abs(weight) * (1 + abs(row - mean).max(initial=0) / spread)
    extra = exact(b) if b is not None else 0 * weight
    return {"out": (value + extra, size + abs(extra))}


def head_layer_norm(x: torch.Tensor, w: torch.Tensor, eps: float) -> Answers:
    """Every head is a row of layer_norm, with weights of its own."""
    heads = [layer_norm(x[:, n], w[n], eps)["out"] for n in range(x.shape[1])]
    return {"x": (np.stack([value for value, _ in heads], 1), np.stack([size for _, size in heads], 1))}


def act(x: torch.Tensor, kind: str) -> Answers:
    value = np.maximum(exact(x), 0) if kind == "relu" else _gates(exact(x), kind)
    return {"x": (value, abs(exact(x)))}


def head_norm(x: torch.Tensor, w: torch.Tensor, eps: float, offset: int = 0) -> Answers:
    """Every head is a row of rms_norm."""
    value, scale = rms_norm(x.flatten(0, 1), w, eps, offset)["out"]
    return {"x": (value.reshape(x.shape), scale.reshape(x.shape))}


def scale(x: torch.Tensor, factor: float) -> Answers:
    value = exact(x) * factor
    return {"x": (value, abs(value))}


def softcap(x: torch.Tensor, cap: float) -> Answers:
    """tanh by its exponentials."""
    twice = np.exp(-2 * abs(exact(x)) / cap)
    value = np.sign(exact(x)) * cap * (1 - twice) / (1 + twice)
    return {"x": (value, abs(exact(x)) + abs(value))}


def _gates(g: Array, kind: str) -> Array:
    if kind == "silu":
        return g / (1 + np.exp(-g))
    if kind == "gelu_erf":
        return g * 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(g / math.sqrt(2)))
    if kind == "gelu_tanh":
        return g * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
    raise KeyError(kind)


def act_mul(x: torch.Tensor, kind: str, **_: Any) -> Answers:
    rows = exact(x)
    half = rows.shape[1] // 2
    gate, up = rows[:, :half], rows[:, half:]
    if kind == "swiglu_oai":
        gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
        value = gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
        return {"out": (value, abs(gate) * (abs(up) + 1))}
    value = _gates(gate, kind) * up
    return {"out": (value, abs(gate * up))}


def linear(x: torch.Tensor, w: Packed, bias: torch.Tensor | None = None, **_: Any) -> Answers:
    a, b = exact(x), exact(w.data)
    extra = exact(bias) if bias is not None else np.zeros(b.shape[0])
    return {"out": (np.einsum("mk,nk->mn", a, b) + extra, np.einsum("mk,nk->mn", abs(a), abs(b)) + abs(extra))}


def moe_route(wts: torch.Tensor, logits: torch.Tensor, scoring: str, renorm: bool, **_: Any) -> Answers:
    """One token at a time, from a list of (score, id)."""
    k = wts.shape[1]
    weights, ids = np.zeros(wts.shape), np.zeros(wts.shape, int)
    for t, row in enumerate(exact(logits)):
        raised = np.exp(row - row.max()) if scoring == "softmax" else 1 / (1 + np.exp(-row))
        scores = raised / math.fsum(raised) if scoring == "softmax" else raised
        best = sorted(range(len(row)), key=lambda e: (-scores[e], e))[:k]
        total = math.fsum(scores[best]) if renorm else 1.0
        weights[t], ids[t] = scores[best] / total, best
    rough = 1 + abs(exact(logits)).max(initial=0)  # an error of the exponent is one of the weight
    return {"wts": (weights, 2 * rough * weights), "ids": (ids, ids * 0)}


def moe_experts(
    x: torch.Tensor, w13: Packed, w2: Packed, wts: torch.Tensor, ids: torch.Tensor, kind: str, first: int = 0, **_: Any
) -> Answers:
    """One token, one expert at a time. An error of the first product is carried through what follows."""
    rows, up, down = exact(x), exact(w13.data), exact(w2.data)
    value, size = np.zeros(rows.shape), np.zeros(rows.shape)
    for t, row in enumerate(rows):
        for weight, expert in zip(exact(wts)[t], ids[t].tolist(), strict=True):
            if not first <= expert < first + len(up):
                continue
            gates, sums = up[expert - first] @ row, abs(up[expert - first]) @ abs(row)
            inner = act_mul(torch.from_numpy(gates)[None], kind)["out"][0][0]
            half = len(gates) // 2
            reach = 2 + abs(gates)
            rough = abs(inner) + reach[:half] * sums[half:] + reach[half:] * sums[:half]
            value[t] += weight * (down[expert - first] @ inner)
            size[t] += weight * (abs(down[expert - first]) @ rough)
    return {"out": (value, size)}


def gather_rows(src: Packed | torch.Tensor, idx: torch.Tensor, **_: Any) -> Answers:
    table = exact(src.data if isinstance(src, Packed) else src)
    value = np.array([table[max(i, 0)] for i in idx.tolist()]).reshape(len(idx), table.shape[1])
    return {"out": (value, value * 0)}


def rope(q: torch.Tensor, k: torch.Tensor, pos: torch.Tensor, cos_sin: torch.Tensor, style: str) -> Answers:
    """A pair (a, b) is the complex number a + bi, and a rotation is one product."""
    table = exact(cos_sin)
    half = table.shape[1] // 2
    turn = (table[:, :half] + 1j * table[:, half:])[pos.numpy()][:, None]
    answers: Answers = {}
    for name, x in (("q", q), ("k", k)):
        value = exact(x)
        scale = abs(value)
        first, second = (slice(0, half), slice(half, 2 * half))
        if style == "gptj":
            first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
        number = (value[..., first] + 1j * value[..., second]) * turn
        value[..., first], value[..., second] = number.real, number.imag
        both = scale[..., first] + scale[..., second]
        scale[..., first], scale[..., second] = both, both
        answers[name] = (value, scale)
    return answers


def kv_write(cache: KVView, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> Answers:
    """Every cell of the cache afterwards, but for block 0, which is nobody's."""
    keys, values = cells(cache)
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            where = slot // cache.block_size, slot % cache.block_size
            keys[where], values[where] = exact(k)[token], exact(v)[token]
    return {"k": (keys[1:], keys[1:] * 0), "v": (values[1:], values[1:] * 0)}


def zero_blocks(cache: KVView, blocks: torch.Tensor) -> Answers:
    """Every cell of the cache afterwards, but for block 0."""
    keys, values = cells(cache)
    for block in blocks.tolist():
        keys[max(block, 0)] = values[max(block, 0)] = 0
    return {"k": (keys[1:], keys[1:] * 0), "v": (values[1:], values[1:] * 0)}


def attn_paged(
    q: torch.Tensor,
    cache: KVView,
    tables: torch.Tensor,
    seq_lens: torch.Tensor,
    cu_q: torch.Tensor,
    scale: float,
    lse: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    causal: bool = True,
    window: int = 0,
    softcap: float = 0.0,
    **_: Any,
) -> Answers:
    """One query, one head, one key at a time."""
    queries = exact(q)
    keys, values = cells(cache)
    group = queries.shape[1] // keys.shape[2]
    size, bounds = cache.block_size, cu_q.tolist()
    out = np.zeros((*queries.shape[:2], values.shape[3]))
    spread, total = np.zeros_like(out), np.zeros(queries.shape[:2])
    for s, length in enumerate(seq_lens.tolist()):
        for t in range(bounds[s], bounds[s + 1]):
            position = length - (bounds[s + 1] - t)
            seen = [j for j in range(length) if (not causal or j <= position) and (not window or j > position - window)]
            at = [(int(tables[s, j // size]), j % size) for j in seen]
            for h in range(queries.shape[1]):
                near = np.array([keys[b, o, h // group] for b, o in at])
                score = near @ queries[t, h] * scale
                rough = 1 + (abs(near) @ abs(queries[t, h])).max() * abs(scale)
                if softcap:
                    score = softcap * np.tanh(score / softcap)
                logits = [*score, float(sinks[h])] if sinks is not None else list(score)
                top = max(logits)
                total[t, h] = top + math.log(math.fsum(math.exp(x - top) for x in logits))
                weight = np.exp(score - total[t, h])
                far = np.array([values[b, o, h // group] for b, o in at])
                out[t, h] = weight @ far
                spread[t, h] = weight @ abs(far) * rough
    answers: Answers = {"out": (out, spread)}
    if lse is not None:
        answers["lse"] = (total, 1 + abs(total))
    return answers


TRUTHS: Mapping[str, Callable[..., Answers]] = {
    "add@1": add,
    "rms_norm@1": rms_norm,
    "layer_norm@1": layer_norm,
    "head_layer_norm@1": head_layer_norm,
    "act@1": act,
    "moe_route@1": moe_route,
    "moe_experts@1": moe_experts,
    "head_norm@1": head_norm,
    "scale@1": scale,
    "softcap@1": softcap,
    "act_mul@1": act_mul,
    "linear@1": linear,
    "gather_rows@1": gather_rows,
    "rope@1": rope,
    "kv_write@1": kv_write,
    "zero_blocks@1": zero_blocks,
    "attn_paged@1": attn_paged,
}


def truth(name: str, args: Mapping[str, Any]) -> Answers:
    return TRUTHS[name](**args)


def written(name: str, args: Mapping[str, Any]) -> dict[str, Array]:
    """What a form has left in the arguments that the operation writes, under the names that `truth` uses."""
    if name in ("kv_write@1", "zero_blocks@1"):
        keys, values = cells(args["cache"])
        return {"k": keys[1:], "v": values[1:]}
    outputs = {"rope@1": ("q", "k"), "add@1": ("res",), "moe_route@1": ("wts", "ids")}.get(name, ("out", "lse"))
    outputs = ("x",) if name in ("head_norm@1", "head_layer_norm@1", "scale@1", "softcap@1", "act@1") else outputs
    return {out: exact(args[out]) for out in outputs if args.get(out) is not None}
