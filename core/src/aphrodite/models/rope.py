"""Rope fields of config.json, in today's form (rope_parameters) and the older one (rope_theta, rope_scaling)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from aphrodite.errors import ModelError
from aphrodite.layers.rope import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeSpec,
    Scaling,
    YarnScaling,
)
from aphrodite.models.config import HFConfig

DEFAULT = "default"


def read_rope(
    config: HFConfig,
    head_dim: int,
    *,
    theta: float = 10000.0,
    max_position: int = 2048,
    style: str = "neox",
    partial: bool = False,
    aliases: Mapping[str, str] | None = None,
) -> RopeSpec:
    """The rotary embedding that a config asks for. ModelError names a scaling that is not supported.

    theta, max_position  the family's own, where the config leaves them out
    partial              the family rotates a part of each head if partial_rotary_factor says so
    aliases              other names that the family has for types of scaling
    """
    parts = [config.part("rope_scaling"), config.part("rope_parameters")]  # in the order that Transformers takes them
    part = next((part for part in parts if part and part.data), HFConfig({}, config.where))
    if nested := [name for name, value in part.data.items() if isinstance(value, dict)]:
        raise ModelError(
            f"{part.where}: {nested[0]!r} is an object, but all layers of this architecture have one rotary embedding",
            subject="rope_parameters",
        )
    reader = _Reader(config, part, max_position, aliases or {})
    return reader.rope(head_dim, config.positive("rope_theta", theta), style, partial)


def read_layer_ropes(
    config: HFConfig,
    head_dim: int,
    bases: Mapping[str, tuple[str, float]],
    *,
    scaled: str,
    max_position: int,
) -> dict[str, RopeSpec]:
    """A rotary embedding for each kind of layer.

    bases   by kind, the older field that holds its theta, and the default
    scaled  the kind that the older field rope_scaling is about
    """
    nested = config.part("rope_parameters")
    if nested is None:
        none = HFConfig({}, config.where)
        parts = dict.fromkeys(bases, none) | {scaled: config.part("rope_scaling") or none}
    else:
        if config.part("rope_scaling"):
            raise ModelError(
                f"{config.where}: rope_parameters and rope_scaling are two ways to say one thing: keep one",
                subject="rope_scaling",
            )
        if unknown := sorted(set(nested.data) - set(bases)):
            raise ModelError(
                f"{nested.where} has {unknown[0]!r}, but must have an object for each of {', '.join(bases)}",
                subject="rope_parameters",
            )
        parts = {kind: nested.part(kind) or HFConfig({}, nested.where) for kind in bases}
    return {
        kind: _Reader(config, _without_truncate(parts[kind]), max_position, {}).rope(
            head_dim, config.positive(field, theta), "neox", partial=False
        )
        for kind, (field, theta) in bases.items()
    }


def _without_truncate(part: HFConfig) -> HFConfig:
    """The object of one kind of layer, as Transformers reads it: a yarn's `truncate` has no effect there."""
    return HFConfig({name: value for name, value in part.data.items() if name != "truncate"}, part.where)


class _Reader:
    """One rotary embedding, of the object `part` of a config."""

    def __init__(self, config: HFConfig, part: HFConfig, max_position: int, aliases: Mapping[str, str]) -> None:
        self._config = config
        self._part = part
        self._max_position = config.size("max_position_embeddings", max_position)
        self._aliases = aliases

    def rope(self, head_dim: int, theta: float, style: str, partial: bool) -> RopeSpec:
        part = self._part
        name = part.get("rope_type", str, part.get("type", str, DEFAULT))
        kind = self._aliases.get(name, name)
        theta = part.positive("rope_theta", theta)
        dim = self._rotary_dim(head_dim, kind, partial)
        if kind == DEFAULT:
            return RopeSpec(theta, dim, style)
        if kind not in _SCALINGS:
            raise ModelError(
                f"{part.where}: rope_type {name!r} is not supported; supported: {', '.join([DEFAULT, *_SCALINGS])}",
                subject="rope_type",
            )
        if theta <= 1 or dim < 4:
            raise ModelError(
                f"{part.where}: rope_type {name!r} needs a rope_theta above 1 and 4 dimensions to rotate, got {theta} "
                f"and {dim}",
                subject="rope_theta",
            )
        return RopeSpec(theta, dim, style, _SCALINGS[kind](self, dim))

    def _rotary_dim(self, head_dim: int, kind: str, partial: bool) -> int:
        """Dimensions that are rotated. Transformers lets a family without partial rotation ignore the factor unless
        there is a scaling, and fails if there is one."""
        given = self._part if self._part.data.get("partial_rotary_factor") is not None else self._config
        factor = given.get("partial_rotary_factor", float, 1.0)
        if not 0 < factor <= 1:
            raise ModelError(
                f"{given.where}: partial_rotary_factor must be in (0, 1], got {factor}", subject="partial_rotary_factor"
            )
        if factor != 1 and not partial and kind != DEFAULT:
            raise ModelError(
                f"{given.where}: partial_rotary_factor {factor} is not supported: this architecture rotates whole "
                "heads",
                subject="partial_rotary_factor",
            )
        dim = int(head_dim * factor) if partial else head_dim
        if dim < 2 or dim % 2:
            what = f"head_dim {head_dim}" if dim == head_dim else f"{dim} dimensions (partial_rotary_factor {factor})"
            raise ModelError(f"{self._config.where}: {what} cannot be rotated in pairs", subject="head_dim")
        return dim

    # ---- scalings ---------------------------------------------------------------------------------------------------

    def linear(self, dim: int) -> Scaling:
        return LinearScaling(self._part.positive("factor"))

    def llama3(self, dim: int) -> Scaling:
        part = self._part
        scaling = Llama3Scaling(
            part.get("factor", float),
            part.get("low_freq_factor", float),
            part.get("high_freq_factor", float),
            self._original(),
        )
        if not 0 < scaling.low_freq_factor < scaling.high_freq_factor or scaling.factor < 1:
            raise ModelError(
                f"{part.where}: needs factor >= 1 and 0 < low_freq_factor < high_freq_factor, got {scaling}",
                subject="rope_scaling",
            )
        return scaling

    def dynamic(self, dim: int) -> Scaling:
        return DynamicScaling(self._at_least_one("factor"), self._max_position)

    def yarn(self, dim: int) -> Scaling:
        part, original = self._part, self._original()
        factor = self._at_least_one("factor", self._max_position / original)
        scales = [part.get(name, float, 0.0) for name in ("mscale", "mscale_all_dim")]
        if all(scales):
            usual = _mscale(factor, scales[0]) / _mscale(factor, scales[1])
        else:
            usual = _mscale(factor, 1.0)
        fast, slow = (part.get(name, float, 0.0) or usual for name, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)))
        if not 0 < slow <= fast < math.inf:
            raise ModelError(
                f"{part.where}: needs 0 < beta_slow <= beta_fast, got {slow} and {fast}", subject="beta_fast"
            )
        factors = factor, original, part.positive("attention_factor", usual)
        return YarnScaling(*factors, fast, slow, part.get("truncate", bool, True))

    def longrope(self, dim: int) -> Scaling:
        original = self._original()
        factor = self._at_least_one("factor", max(1.0, self._max_position / original))
        usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 < original else 1.0
        short, long = (self._factors(name, dim // 2) for name in ("short_factor", "long_factor"))
        return LongRopeScaling(short, long, original, self._part.positive("attention_factor", usual))

    def _original(self) -> int:
        """The length of the training: a field beside the scaling goes before one within it."""
        name = "original_max_position_embeddings"
        holder = self._config if self._config.data.get(name) is not None else self._part
        return holder.size(name, self._max_position)

    def _at_least_one(self, name: str, default: float | None = None) -> float:
        value = self._part.positive(name) if default is None else self._part.positive(name, default)
        if value < 1:
            raise ModelError(f"{self._part.where}: {name} must be at least 1, got {value}", subject=name)
        return value

    def _factors(self, name: str, count: int) -> tuple[float, ...]:
        """A list of `count` positive numbers."""
        given = self._part.data.get(name)
        numbers = given if isinstance(given, list) and all(type(x) in (int, float) for x in given) else []
        if len(numbers) != count or not all(0 < x < math.inf for x in numbers):
            raise ModelError(
                f"{self._part.where}: the field {name!r} must list {count} positive numbers, half the rotated "
                f"dimensions, got {given!r}",
                subject=name,
            )
        return tuple(map(float, numbers))


_SCALINGS: Mapping[str, Callable[[_Reader, int], Scaling]] = {
    "linear": _Reader.linear,
    "llama3": _Reader.llama3,
    "dynamic": _Reader.dynamic,
    "yarn": _Reader.yarn,
    "longrope": _Reader.longrope,
}


def _mscale(factor: float, weight: float) -> float:
    """Source: Peng et al. 2023, equation 22; DeepSeek's weights of it."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0
