"""Rotary tables: frequencies after scaling, baked into cosines and sines once, on the host.

In float32, step by step as Transformers does it: models are trained and judged with these very roundings, and at
position 100,000 a float32 angle is already off by thousandths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from aphrodite.program.values import ConstantRef


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's: long wavelengths are stretched by `factor`, short ones kept, those between blended.

    Source: the config fields rope_scaling.{factor, low_freq_factor, high_freq_factor,
    original_max_position_embeddings} of Llama 3.1.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def apply(self, frequency: torch.Tensor) -> torch.Tensor:
        """Angular frequencies [Rd / 2], radians a token, scaled."""
        wavelength = 2 * math.pi / frequency
        low, high = (self.original_max_position / f for f in (self.low_freq_factor, self.high_freq_factor))
        blend = (self.original_max_position / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        blended = (1 - blend) * frequency / self.factor + blend * frequency
        stretched = torch.where(wavelength > low, frequency / self.factor, frequency)
        between = (wavelength <= low) & (wavelength >= high)
        return torch.where(between, blended, stretched)


@dataclass(frozen=True)
class LinearScaling:
    """Every wavelength is stretched by `factor` (position interpolation).

    Source: Chen et al. 2023, equation 4; the config fields rope_scaling.{rope_type: linear, factor}.
    """

    factor: float

    def apply(self, frequency: torch.Tensor) -> torch.Tensor:
        """Angular frequencies [Rd / 2], radians a token, scaled."""
        return frequency / self.factor


@dataclass(frozen=True)
class RopeSpec:
    """Rotary embedding of a layer: base theta, rotated dimensions, pairing style (ops/rope.py), scaling."""

    theta: float
    rotary_dim: int
    style: str = "neox"
    scaling: Llama3Scaling | LinearScaling | None = None

    def table(self, max_len: int) -> torch.Tensor:
        """[max_len, rotary_dim] f32: cosines of rotary_dim / 2 frequencies, then their sines."""
        index = torch.arange(0, self.rotary_dim, 2, dtype=torch.int64).float()
        frequency = 1.0 / (self.theta ** (index / self.rotary_dim))
        if self.scaling is not None:
            frequency = self.scaling.apply(frequency)
        angle = torch.arange(max_len).float()[:, None] * frequency
        return torch.cat((angle.cos(), angle.sin()), -1)

    def constant(self, max_len: int) -> ConstantRef:
        """The table as a constant of a Program; layers of one spec share it."""
        name = f"rope({self.theta!r},{self.rotary_dim},{self.scaling})"
        return ConstantRef(name, (max_len, self.rotary_dim), "f32", lambda: self.table(max_len))
