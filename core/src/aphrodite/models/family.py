"""Fields that family pages read alike."""

from __future__ import annotations

from aphrodite.errors import ModelError
from aphrodite.models.config import HFConfig

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def head_dim(config: HFConfig, num_heads: int) -> int:
    """head_dim, or hidden_size over the heads where a config leaves it out."""
    hidden = config.size("hidden_size")
    if config.data.get("head_dim") is None and hidden % num_heads:
        raise ModelError(
            f"{config.where}: hidden_size {hidden} is not a multiple of num_attention_heads {num_heads}, and there is "
            "no head_dim",
            subject="head_dim",
        )
    kv = config.size("num_key_value_heads", num_heads)
    if num_heads % kv:
        raise ModelError(
            f"{config.where}: num_attention_heads {num_heads} is not a multiple of num_key_value_heads {kv}",
            subject="num_key_value_heads",
        )
    return config.size("head_dim", hidden // num_heads)


def activation(config: HFConfig) -> str:
    """hidden_act as a kind of act_mul."""
    name = config.get("hidden_act", str, "silu")
    if name not in _ACTIVATIONS:
        known = ", ".join(sorted(_ACTIVATIONS))
        raise ModelError(f"{config.where}: hidden_act {name!r} is not supported; supported: {known}", subject=name)
    return _ACTIVATIONS[name]
