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


FULL, SLIDING = "full_attention", "sliding_attention"


def head_dim(config: HFConfig, num_heads: int, default: int | None = None) -> int:
    """head_dim; where a config leaves it out `default`, or else hidden_size over the heads."""
    hidden = config.size("hidden_size")
    if config.data.get("head_dim") is None and default is None and hidden % num_heads:
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
    return config.size("head_dim", default or hidden // num_heads)


def activation(config: HFConfig, field: str = "hidden_act", default: str = "silu") -> str:
    """An activation's name as a kind of act_mul."""
    name = config.get(field, str, default)
    if name not in _ACTIVATIONS:
        known = ", ".join(sorted(_ACTIVATIONS))
        raise ModelError(f"{config.where}: {field} {name!r} is not supported; supported: {known}", subject=name)
    return _ACTIVATIONS[name]


def layer_kinds(config: HFConfig, pattern: int) -> list[str]:
    """FULL or SLIDING for each layer: layer_types, or where a config leaves it out every `pattern`-th one full."""
    count, listed = config.size("num_hidden_layers", most=4096), config.data.get("layer_types")
    if listed is None:
        return [SLIDING if (number + 1) % pattern else FULL for number in range(count)]
    if not isinstance(listed, list) or len(listed) != count:
        raise ModelError(
            f"{config.where}: the field 'layer_types' must list {count} layers (num_hidden_layers), got {listed!r}",
            subject="layer_types",
        )
    for kind in listed:
        if kind not in (FULL, SLIDING):
            raise ModelError(
                f"{config.where}: layer_types has {kind!r}, which is not supported; supported: {FULL}, {SLIDING}",
                subject="layer_types",
            )
    return listed


def refuse(config: HFConfig, field: str, why: str) -> None:
    """ModelError if the field is there and says anything but null or false."""
    if (value := config.data.get(field)) is not None and value is not False:
        raise ModelError(f"{config.where}: {field} {value!r} is not supported: {why}", subject=field)
