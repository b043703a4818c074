"""Rope fields of config.json, in today's form (rope_parameters) and the older one (rope_theta, rope_scaling)."""

from __future__ import annotations

from aphrodite.errors import ModelError
from aphrodite.layers.rope import Llama3Scaling, RopeSpec
from aphrodite.models.config import HFConfig


def read_rope(config: HFConfig, head_dim: int, *, default_theta: float = 10000.0) -> RopeSpec:
    """The rotary embedding that a config asks for. ModelError names a scaling this version does not have."""
    parts = [config.part("rope_scaling"), config.part("rope_parameters")]  # in the order that Transformers takes them
    part = next((part for part in parts if part and part.data), HFConfig({}, config.where))
    theta = part.positive("rope_theta", config.positive("rope_theta", default_theta))
    kind = part.get("rope_type", str, part.get("type", str, "default"))
    if head_dim % 2:
        raise ModelError(f"{config.where}: head_dim {head_dim} cannot be rotated in pairs", subject="head_dim")
    if kind == "default":
        return RopeSpec(theta, head_dim)
    if kind != "llama3":
        raise ModelError(
            f"{part.where}: rope_type {kind!r} is not supported; supported: default, llama3",
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
