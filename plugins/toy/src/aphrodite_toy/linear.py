"""linear@1 over weights in columns, in the manner of split-K kernels: slices of K summed apart, the last one finishes.

It shows both kinds of workspace. Scratch, [SLICES, M, N] float32, has undefined contents and holds the partial sums.
The zeroed bytes hold a ticket: each slice draws one, the slice that draws the last adds up, and puts it back to zero.
"""

from __future__ import annotations

import torch

from aphrodite.plugin import Binding, Dims, Facts, Packed, Run, Workspace

SLICES = 2
_FLOAT = _INT = 4  # bytes


def workspace(facts: Facts, bounds: Dims) -> Workspace:
    """What `bind` needs at the largest step; facts hold the sizes there."""
    return Workspace(SLICES * facts["M"] * facts["N"] * _FLOAT, zeroed_bytes=_INT)


def bind(binding: Binding) -> Run:
    """linear@1."""
    out, x, w, bias = (binding.args[name] for name in ("out", "x", "w", "bias"))
    rows, stream = binding.extents["x"], binding.stream

    def run(dims: Dims) -> None:
        num = rows.at(dims)
        cut = out.narrow(0, 0, num), x.narrow(0, 0, num)
        stream.enqueue(binding.name, _split_k, *cut, w, bias, binding.scratch, binding.zeroed)

    return run


def _split_k(
    out: torch.Tensor,
    x: torch.Tensor,
    w: Packed,
    bias: torch.Tensor | None,
    scratch: torch.Tensor,
    zeroed: torch.Tensor,
) -> None:
    (m, k), n = x.shape, out.shape[1]
    partial = scratch.view(torch.float32)[: SLICES * m * n].view(SLICES, m, n)
    ticket = zeroed[:_INT].view(torch.int32)
    for number in range(SLICES):
        start, stop = k * number // SLICES, k * (number + 1) // SLICES
        torch.mm(x[:, start:stop].float(), w.data[start:stop].float(), out=partial[number])
        ticket += 1
        if ticket.item() == SLICES:
            total = partial.sum(0)
            out.copy_(total if bias is None else total + bias.float())
            ticket.zero_()
