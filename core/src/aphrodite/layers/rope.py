"""Rotary tables: frequencies after scaling, baked into cosines and sines once, on the host.

In float32, step by step as Transformers does it: models are trained and judged with these very roundings, and at
position 100,000 a float32 angle is already off by thousandths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from aphrodite.program.values import ConstantRef


@dataclass(frozen=True)
class Longest:
    """The longest sequence that a network is for, and what says so."""

    num_tokens: int
    why: str
    may_be_raised: bool = False  # by max_model_len, which then enters the table


class Scaling(Protocol):
    """How frequencies are changed so that positions beyond those of the training stay in range."""

    @property
    def attention_factor(self) -> float:
        """Multiplies every cosine and sine, and so scores by its square."""
        ...

    @property
    def switch(self) -> int | None:
        """The length beyond which a sequence has other frequencies, for all of its positions; None: there is none."""
        ...

    def frequencies(self, theta: float, dim: int, max_len: int) -> tuple[torch.Tensor, ...]:
        """Angular frequencies [dim / 2], radians a token, for sequences of up to max_len tokens; where max_len is
        beyond `switch` two, of shorter sequences and of longer ones."""
        ...

    def longest(self, max_position: int) -> Longest | None:
        """What it makes of the config's max_position_embeddings; None: nothing."""
        ...


class _Plain:
    """What most scalings have in common."""

    @property
    def attention_factor(self) -> float:
        return 1.0

    @property
    def switch(self) -> int | None:
        return None

    def longest(self, max_position: int) -> Longest | None:
        return None


@dataclass(frozen=True)
class LinearScaling(_Plain):
    """Every wavelength is stretched by `factor` (position interpolation).

    Source: Chen et al. 2023, equation 4; the config fields rope_scaling.{rope_type: linear, factor}.
    """

    factor: float

    def frequencies(self, theta: float, dim: int, max_len: int) -> tuple[torch.Tensor, ...]:
        return (unscaled(theta, dim) / self.factor,)


@dataclass(frozen=True)
class Llama3Scaling(_Plain):
    """Llama 3.1's: long wavelengths are stretched by `factor`, short ones kept, those between blended.

    Source: the config fields rope_scaling.{factor, low_freq_factor, high_freq_factor,
    original_max_position_embeddings} of Llama 3.1.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def frequencies(self, theta: float, dim: int, max_len: int) -> tuple[torch.Tensor, ...]:
        frequency = unscaled(theta, dim)
        wavelength = 2 * math.pi / frequency
        low, high = (self.original_max_position / f for f in (self.low_freq_factor, self.high_freq_factor))
        blend = (self.original_max_position / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        blended = (1 - blend) * frequency / self.factor + blend * frequency
        stretched = torch.where(wavelength > low, frequency / self.factor, frequency)
        between = (wavelength <= low) & (wavelength >= high)
        return (torch.where(between, blended, stretched),)


@dataclass(frozen=True)
class DynamicScaling(_Plain):
    """The base grows with the length beyond max_position (NTK-aware). One length serves all sequences: max_model_len.

    A base of each sequence's own would turn with every token, and with it all keys that are cached. Up to max_position
    nothing changes at all.
    Source: the config fields rope_scaling.{rope_type: dynamic, factor}; Peng et al. 2023 (YaRN), section 3.1.
    """

    factor: float
    max_position: int

    def frequencies(self, theta: float, dim: int, max_len: int) -> tuple[torch.Tensor, ...]:
        length = max(max_len, self.max_position)
        growth = self.factor * length / self.max_position - (self.factor - 1)
        return (unscaled(theta * growth ** (dim / (dim - 2)), dim),)

    def longest(self, max_position: int) -> Longest:
        return Longest(max_position, "the model's max_position_embeddings", may_be_raised=True)


@dataclass(frozen=True)
class YarnScaling:
    """YaRN: dimensions that turn often keep their frequency, slow ones are stretched by `factor`, a ramp between.

    fast, slow  turns within the original length above which, and below which
    truncate    the ramp begins and ends at whole dimensions
    attention_factor  as the config gives it, or follows from the others
    Source: Peng et al. 2023, section 3.2 to 3.4.
    """

    factor: float
    original_max_position: int
    attention_factor: float
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True

    def frequencies(self, theta: float, dim: int, max_len: int) -> tuple[torch.Tensor, ...]:
        period = theta ** (torch.arange(0, dim, 2).float() / dim)
        kept, stretched = 1.0 / period, 1.0 / (self.factor * period)
        low, high = self._dimension(self.fast, theta, dim), self._dimension(self.slow, theta, dim)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        width = high - low or 0.001
        keep = 1 - ((torch.arange(dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
        return (stretched * (1 - keep) + kept * keep,)

    @property
    def switch(self) -> int | None:
        return None

    def _dimension(self, turns: float, theta: float, dim: int) -> float:
        """The dimension that turns so often within the original length."""
        return dim * math.log(self.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(theta))

    def longest(self, max_position: int) -> Longest | None:
        stretched = int(self.factor * self.original_max_position)
        if stretched <= max_position:
            return None
        return Longest(stretched, "the model's original length times the factor of its yarn scaling")


@dataclass(frozen=True)
class LongRopeScaling:
    """LongRoPE: a factor for each frequency; `short` while a sequence has up to original_max_position tokens, else
    `long`, for all of its positions.

    Source: Ding et al. 2024, section 3; the config fields of Phi-3.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_max_position: int
    attention_factor: float

    @property
    def switch(self) -> int | None:
        return self.original_max_position

    def frequencies(self, theta: float, dim: int, max_len: int) -> tuple[torch.Tensor, ...]:
        exponent = torch.arange(0, dim, 2, dtype=torch.int64).float() / dim
        regimes = (self.short, self.long) if max_len > self.original_max_position else (self.short,)
        return tuple(1.0 / (torch.tensor(factors) * theta**exponent) for factors in regimes)

    def longest(self, max_position: int) -> Longest | None:
        return None


@dataclass(frozen=True)
class RopeSpec:
    """Rotary embedding of a layer: base theta, rotated dimensions, pairing style (ops/rope.py), scaling."""

    theta: float
    rotary_dim: int
    style: str = "neox"
    scaling: Scaling | None = None

    def switch(self, max_len: int) -> int | None:
        """The length beyond which a sequence reads the second part of the table, if max_len is beyond it."""
        at = self.scaling.switch if self.scaling else None
        return at if at is not None and at < max_len else None

    def table(self, max_len: int) -> torch.Tensor:
        """[P, rotary_dim] f32: cosines of rotary_dim / 2 frequencies, then their sines. P is max_len, or twice that
        where sequences beyond `switch` have frequencies of their own: theirs stand behind the others."""
        factor = self.scaling.attention_factor if self.scaling else 1.0
        parts = []
        for frequency in self._frequencies(max_len):
            angle = torch.arange(max_len).float()[:, None] * frequency
            parts.append(torch.cat((angle.cos(), angle.sin()), -1) * factor)
        return torch.cat(parts)

    def constant(self, max_len: int) -> ConstantRef:
        """The table as a constant of a Program; layers of one spec share it."""
        name = f"rope({self.theta!r},{self.rotary_dim},{self.scaling})"
        length = max_len if self.switch(max_len) is None else 2 * max_len
        return ConstantRef(name, (length, self.rotary_dim), "f32", lambda: self.table(max_len))

    def _frequencies(self, max_len: int) -> tuple[torch.Tensor, ...]:
        if self.scaling is None:
            return (unscaled(self.theta, self.rotary_dim),)
        return self.scaling.frequencies(self.theta, self.rotary_dim, max_len)


def unscaled(theta: float, dim: int) -> torch.Tensor:
    """Angular frequencies [dim / 2] without scaling. Source: Su et al. 2021, section 3.2.2."""
    index = torch.arange(0, dim, 2, dtype=torch.int64).float()
    return 1.0 / (theta ** (index / dim))
