"""Mixtures of experts over weights packed by oneDNN: the tokens of each expert in one product."""

from __future__ import annotations

import torch

import aphrodite_kernels_cpu as native
from aphrodite.plugin import PORTABLE, Binding, C, Dims, Flag, Kernel, Run
from aphrodite_cpu.linear import ONEDNN, on_ladder, onednn_dtypes, product


def bind(binding: Binding) -> Run:
    """moe_experts@1: pairs of token and expert sorted by expert, so that a matrix is read once, and only if wanted."""
    args, facts = binding.args, binding.facts
    out, x, w13, w2, wts, ids = (args[name] for name in ("out", "x", "w13", "w2", "wts", "ids"))
    rows, first, num_held = binding.extents["x"], args["first"], facts["E"]
    kind, code = native.KINDS[args["kind"]], native.DTYPES[facts["dtype"]]
    inner, k = facts["I"], facts["k"]

    def run(dims: Dims) -> None:
        num = rows.at(dims)
        expert, order = (ids[:num].flatten() - first).sort(stable=True)  # equal ids stay in the order of tokens
        edges = torch.searchsorted(expert, torch.arange(num_held + 1, dtype=expert.dtype)).tolist()
        token, weight = order // k, wts[:num].flatten()[order, None]
        total = torch.zeros(num, out.shape[1])
        for index in range(num_held):
            start, stop = edges[index], edges[index + 1]
            if start == stop:
                continue
            mine, count = token[start:stop], on_ladder(stop - start)
            chosen = x.new_zeros(count, x.shape[1])
            torch.index_select(x, 0, mine, out=chosen[: stop - start])
            gate_up = product(chosen, w13.data[index], None)
            hidden = torch.empty(count, inner, dtype=x.dtype)
            native.act_mul(hidden.data_ptr(), gate_up.data_ptr(), count, inner, inner, 2 * inner, kind, code)
            y = product(hidden, w2.data[index], None)[: stop - start]
            total.index_add_(0, mine, y * weight[start:stop])
        out[:num] = total

    return run


EXPERTS = Kernel(
    "moe_experts@1",
    "cpu.experts",
    bind=bind,
    where=C(weights=ONEDNN.name, dtype=onednn_dtypes(), kind=set(native.KINDS), features={"first"}),
    tier=PORTABLE,
    flags=Flag.ALLOCATES | Flag.RUN_STABLE,
)
