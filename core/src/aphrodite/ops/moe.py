"""Mixtures of experts: which experts a token goes to, and what they make of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

from aphrodite.ops.activation import KINDS
from aphrodite.ops.numeric import generator, matrix, wide
from aphrodite.ops.op import Example, Tolerance, op
from aphrodite.platform.dtypes import torch_dtype
from aphrodite.platform.layout import PLAIN, Packed


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(-1)


SCORINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"softmax": _softmax, "sigmoid": torch.sigmoid}


def _route_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    sizes = ((0, 4, 2), (1, 1, 1), (5, 3, 3), (17, 60, 4))
    for (t, e, k), scoring, renorm in itertools.product(sizes, SCORINGS, (False, True)):
        logits = (torch.randn(t, e, generator=g) * 2).to(torch_dtype(dtype))
        if t > 1:
            logits[1] = logits[1, 0]  # a tie of all
        args = {
            "wts": torch.empty(t, k),
            "ids": torch.empty(t, k, dtype=torch.int32),
            "logits": logits,
            "scoring": scoring,
            "renorm": renorm,
        }
        yield Example(f"T={t} E={e} k={k} {scoring} renorm={renorm}", args)


@op(
    "moe_route@1",
    "wts[T,k] f32!, ids[T,k] i32!, logits[T,E] A, scoring: str, renorm: bool",
    examples=_route_examples,
)
def moe_route(wts: torch.Tensor, ids: torch.Tensor, logits: torch.Tensor, scoring: str, renorm: bool) -> None:
    """The k experts of each token with the highest scores, best first, and what each of them counts.

    scoring  softmax over all experts, or sigmoid of each alone
    renorm   the weights of the k chosen are divided by their sum
    Ties go to the lower expert id. ids are below E whatever the logits are: those of a NaN row have weights of NaN.
    Source: Shazeer et al. 2017, section 2.1; Jiang et al. 2024 (Mixtral), section 2.1.
    """
    k = wts.shape[1]
    scores, order = SCORINGS[scoring](wide(logits)).sort(dim=-1, descending=True, stable=True)
    chosen = scores[:, :k]
    wts.copy_(chosen / chosen.sum(-1, keepdim=True) if renorm else chosen)
    ids.copy_(order[:, :k])


def _experts_examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    kind = torch_dtype(dtype)
    for t, h, i, e, k, held, first, act in (
        (0, 8, 4, 2, 1, 2, 0, "silu"),
        (1, 1, 1, 1, 1, 1, 0, "gelu_tanh"),
        (7, 20, 12, 3, 3, 3, 0, "silu"),
        (23, 32, 9, 16, 2, 16, 0, "swiglu_oai"),
        (23, 32, 9, 16, 4, 5, 7, "gelu_erf"),
    ):
        wts, ids = torch.rand(t, e, generator=g).sort(descending=True)
        w13 = (torch.randn(held, 2 * i, h, generator=g) / h**0.5).to(kind)
        w2 = (torch.randn(held, h, i, generator=g) / i**0.5).to(kind)
        args = {
            "out": torch.empty(t, h, dtype=kind),
            "x": torch.randn(t, h, generator=g).to(kind),
            "w13": Packed(w13, PLAIN, tuple(w13.shape), dtype),
            "w2": Packed(w2, PLAIN, tuple(w2.shape), dtype),
            "wts": wts[:, :k].contiguous(),
            "ids": ids[:, :k].to(torch.int32).contiguous(),
            "kind": act,
            "first": first,
        }
        yield Example(f"T={t} H={h} I={i} k={k} of {e}, {held} from {first} here, {act}", args)


def _grouped(
    out: torch.Tensor,
    x: torch.Tensor,
    w13: Packed,
    w2: Packed,
    wts: torch.Tensor,
    ids: torch.Tensor,
    kind: str,
    first: int = 0,
) -> None:
    """The tokens of each expert as one product in the storage type, for the experts that have any: no weight is read
    that no token wants, and no token is multiplied that an expert does not get."""
    gate_up, down = matrix(w13), matrix(w2)
    num_held, k = gate_up.shape[0], ids.shape[1]
    local, order = (ids.flatten() - first).sort(stable=True)  # equal ids stay in the order of tokens
    inside = (local >= 0) & (local < num_held)
    counts = torch.bincount(local[inside], minlength=num_held).tolist()
    pairs = order[inside]
    total = torch.zeros(out.shape, dtype=wide(out).dtype, device=out.device)
    weights = wts.flatten()
    start = 0
    for expert, count in enumerate(counts):
        if not count:
            continue
        mine = pairs[start : start + count]
        start += count
        tokens = mine // k
        gate, up = wide(x[tokens] @ gate_up[expert].t()).chunk(2, dim=-1)
        y = KINDS[kind](gate, up).to(x.dtype) @ down[expert].t()
        total.index_add_(0, tokens, wide(y) * weights[mine, None])
    out.copy_(total)


@op(
    "moe_experts@1",
    "out[T,H] A!, x[T,H] A, w13[E,I2,H] Packed A, w2[E,H,I] Packed A, wts[T,k] f32, ids[T,k] i32, kind: str, "
    "first: int = 0",
    portable=_grouped,
    examples=_experts_examples,
    tolerance=Tolerance(c=8.0),
    reads_host=True,
)
def moe_experts(
    out: torch.Tensor,
    x: torch.Tensor,
    w13: Packed,
    w2: Packed,
    wts: torch.Tensor,
    ids: torch.Tensor,
    kind: str,
    first: int = 0,
) -> None:
    """out[t] <- sum over j of wts[t, j] w2[e] act_mul(w13[e] x[t]) with e = ids[t, j], in float32 and rounded once.

    w13    of each expert, the rows of the gate and then those of the other half (I2 = 2 I), as act_mul takes them
    kind   of act_mul
    first  id of the first of the E experts that are held here; the others contribute nothing
    No token lists an expert twice. Source: Jiang et al. 2024 (Mixtral), section 2.1.
    """
    gate_up, down = matrix(w13), matrix(w2)
    total = torch.zeros(out.shape, dtype=wide(out).dtype, device=out.device)
    for token, chosen in enumerate((ids - first).tolist()):
        for j, expert in enumerate(chosen):
            if 0 <= expert < len(gate_up):
                gate, up = (wide(gate_up[expert]) @ wide(x[token])).chunk(2)
                total[token] += wts[token, j] * (wide(down[expert]) @ KINDS[kind](gate, up))
    out.copy_(total)
