"""The optimiser: Muon for the matrices inside the layers, AdamW for the embedding and the norms.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (momentum whose update is made
orthogonal by five Newton-Schulz steps).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Optimizer:
    """Both, behind one step. Learning rates are multiplied by what `step` is given."""

    def __init__(self, network: nn.Module, *, matrix_rate: float, rate: float, decay: float) -> None:
        named = dict(network.named_parameters())
        matrices = [p for name, p in named.items() if p.dim() == 2 and "embed" not in name]
        self._rest = [p for name, p in named.items() if p.dim() != 2 or "embed" in name]
        self._matrix_rate, self._decay, self._rate = matrix_rate, decay, rate
        fused = self._rest[0].device.type != "cpu"
        self._adam = torch.optim.AdamW(self._rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)
        by_size: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            by_size.setdefault(matrix.shape, []).append(matrix)
        self._groups = [(group, torch.zeros_like(torch.stack(list(group)))) for group in by_size.values()]

    @torch.no_grad()
    def step(self, share: float, momentum: float) -> None:
        """Apply the gradients and clear them. `share` of the learning rates, 0 to 1."""
        for group in self._adam.param_groups:
            group["lr"] = self._rate * share
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        rate = self._matrix_rate * share
        for matrices, memory in self._groups:
            gradient = torch.stack([matrix.grad for matrix in matrices])  # type: ignore[misc]
            memory.lerp_(gradient, 1 - momentum)
            update = orthogonal(gradient.lerp(memory, momentum))
            rows, columns = matrices[0].shape
            scale = rate * max(1.0, rows / columns) ** 0.5
            for matrix, change in zip(matrices, update.unbind(), strict=True):
                matrix.mul_(1 - rate * self._decay).add_(change, alpha=-scale)
                matrix.grad = None


def orthogonal(x: Tensor) -> Tensor:
    """Matrices [n, rows, columns] with all singular values near 1, by Newton-Schulz steps; in bfloat16 on a GPU."""
    wide = x.shape[-2] > x.shape[-1]
    y = (x.mT if wide else x).to(torch.float32 if x.device.type == "cpu" else torch.bfloat16)
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = y @ y.mT
        y = 3.4445 * y + (-4.7750 * square + 2.0315 * square @ square) @ y
    return (y.mT if wide else y).to(x.dtype)
