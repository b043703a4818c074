"""Rope fields of config.json, in today's form (rope_parameters) and the older one (rope_theta, rope_scaling)."""

from __future__ import annotations

from collections.abc import Mapping

from aphrodite.errors import ModelError
from aphrodite.layers.rope import LinearScaling, Llama3Scaling, RopeSpec
from aphrodite.models.config import HFConfig


def read_rope(config: HFConfig, head_dim: int, *, default_theta: float = 10000.0) -> RopeSpec:
    """The rotary embedding that a config asks for. ModelError names a scaling this version does not have."""
    parts = [config.part("rope_scaling"), config.part("rope_parameters")]  # in the order that Transformers takes them
    part = next((part for part in parts if part and part.data), HFConfig({}, config.where))
    if nested := [name for name, value in part.data.items() if isinstance(value, dict)]:
        raise ModelError(
            f"{part.where}: {nested[0]!r} is an object, but all layers of this architecture have one rotary embedding",
            subject="rope_parameters",
        )
    return _read(config, part, config.positive("rope_theta", default_theta), head_dim)


def read_layer_ropes(
    config: HFConfig, head_dim: int, bases: Mapping[str, tuple[str, float]], *, scaled: str
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
        kind: _read(config, parts[kind], config.positive(field, theta), head_dim)
        for kind, (field, theta) in bases.items()
    }


def _read(config: HFConfig, part: HFConfig, default_theta: float, head_dim: int) -> RopeSpec:
    """One rotary embedding, of the object `part`."""
    theta = part.positive("rope_theta", default_theta)
    kind = part.get("rope_type", str, part.get("type", str, "default"))
    if head_dim % 2:
        raise ModelError(f"{config.where}: head_dim {head_dim} cannot be rotated in pairs", subject="head_dim")
    if kind == "default":
        return RopeSpec(theta, head_dim)
    if kind == "linear":
        return RopeSpec(theta, head_dim, scaling=LinearScaling(part.positive("factor")))
    if kind != "llama3":
        raise ModelError(
            f"{part.where}: rope_type {kind!r} is not supported; supported: default, linear, llama3",
            subject="rope_type",
        )
    scaling = Llama3Scaling(
        part.get("factor", float),
        part.get("low_freq_factor", float),
        part.get("high_freq_factor", float),
        part.size("original_max_position_embeddings", config.size("max_position_embeddings", 2048)),
    )
    if not 0 < scaling.low_freq_factor < scaling.high_freq_factor or scaling.factor < 1:
        raise ModelError(
            f"{part.where}: needs factor >= 1 and 0 < low_freq_factor < high_freq_factor, got {scaling}",
            subject="rope_scaling",
        )
    return RopeSpec(theta, head_dim, scaling=scaling)
