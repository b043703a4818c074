"""The toy's kernels. Each shows one way of the contract; arithmetic is torch's, in float32, rounded once.

A kernel is given either as `bind`, which sees the place in the Program once and returns what runs each step, or as
`fn`, which is called with the operation's arguments and goes through the platform's Forms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from aphrodite.plugin import NATIVE, Binding, C, Dims, Flag, Kernel, Packed, Run, between, multiple
from aphrodite_toy import attention, linear
from aphrodite_toy.experts import experts
from aphrodite_toy.layouts import COLUMNS, THDKB


def bind_rms_norm(binding: Binding) -> Run:
    """rms_norm@1, bound by hand: what is constant is looked up once, a step only cuts and enqueues."""
    out, x, w, eps, offset = (binding.args[name] for name in ("out", "x", "w", "eps", "offset"))
    rows, stream = binding.extents["x"], binding.stream

    def run(dims: Dims) -> None:
        num = rows.at(dims)
        stream.enqueue(binding.name, _normalise, out.narrow(0, 0, num), x.narrow(0, 0, num), w, eps, offset)

    return run


def add_rms_norm(x: torch.Tensor, res: torch.Tensor, w: torch.Tensor, eps: float, offset: int = 0) -> None:
    """add_rms_norm@1: the composite's two calls as one. res is rounded before the norm reads it, as in the calls."""
    res.add_(x)
    _normalise(x, res, w, eps, offset)


def _normalise(out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, eps: float, offset: int) -> None:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    out.copy_(wide * scale * (w.float() + offset))


def act_mul(out: torch.Tensor, x: torch.Tensor, kind: str) -> None:
    """act_mul@1 for SiLU; `kind` is an argument because the operation has it, and always "silu" by the constraint."""
    gate, up = x.float().chunk(2, dim=-1)
    out.copy_(F.silu(gate) * up)


def gather_rows(out: torch.Tensor, src: Packed, idx: torch.Tensor) -> None:
    """gather_rows@1 from a matrix in columns. With it an embedding can lie in the layout that `linear` wants, so that
    a model whose head is its embedding keeps one copy."""
    out.copy_(src.data.index_select(1, idx.clamp(min=0)).t())


_IN_COLUMNS = C(weights=COLUMNS.name)
_FOURS = C(H=multiple(4), features={"offset"})  # other sizes fall back to the torch forms
_STABLE = Flag.ALLOCATES | Flag.RUN_STABLE

KERNELS = (
    Kernel("rms_norm@1", "toy.rms_norm", bind=bind_rms_norm, where=_FOURS, tier=NATIVE, flags=_STABLE),
    Kernel("add_rms_norm@1", "toy.add_rms_norm", fn=add_rms_norm, where=_FOURS, tier=NATIVE, flags=_STABLE),
    Kernel(
        "act_mul@1",
        "toy.act_mul",
        fn=act_mul,
        where=C(T=between(1, 16), kind="silu"),  # small steps only: the planner chooses for each bucket of T
        tier=NATIVE,
        flags=_STABLE,
    ),
    Kernel("gather_rows@1", "toy.gather_rows", fn=gather_rows, where=_IN_COLUMNS, tier=NATIVE, flags=_STABLE),
    Kernel(
        "linear@1",
        "toy.linear",
        bind=linear.bind,
        where=C(weights=COLUMNS.name, features={"bias"}),
        tier=NATIVE,
        flags=_STABLE,
        workspace=linear.workspace,
    ),
    Kernel(
        "moe_experts@1",
        "toy.experts",
        fn=experts,
        where=C(weights=COLUMNS.name, kind="silu"),
        tier=NATIVE,
        flags=_STABLE,
    ),
    Kernel("attn_plan@1", attention.PLAN, fn=attention.plan, tier=NATIVE, flags=_STABLE),
    Kernel(
        "attn_paged@1",
        "toy.attention",
        fn=attention.attend,
        where=C(layout=THDKB.name, features={"causal", "window"}),
        tier=NATIVE,
        flags=_STABLE,
        plan=attention.PLAN,
    ),
)
