"""What family pages read alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aphrodite.errors import ModelError
from aphrodite.layers.attention import Heads
from aphrodite.layers.moe import Routing
from aphrodite.layers.rope import RopeSpec
from aphrodite.models.config import HFConfig
from aphrodite.models.spec import AttentionSpec, DecoderSpec, LayerSpec

FULL, SLIDING = "full_attention", "sliding_attention"

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_NOT_GATED = {"relu": "relu"}


def read_heads(config: HFConfig, *, kv_heads: int | None = None, head_dim: int | None = None) -> Heads:
    """Heads of attention.

    kv_heads  where a config leaves num_key_value_heads out; None, or null in the config: as many as there are heads
    head_dim  where a config leaves it out; None: hidden_size over the heads
    """
    num, hidden = config.size("num_attention_heads"), config.size("hidden_size")
    absent = num if kv_heads is None or "num_key_value_heads" in config.data else kv_heads
    kv = config.size("num_key_value_heads", absent)
    if num % kv:
        raise ModelError(
            f"{config.where}: num_attention_heads {num} is not a multiple of num_key_value_heads {kv}",
            subject="num_key_value_heads",
        )
    if config.data.get("head_dim") is None and head_dim is None and hidden % num:
        raise ModelError(
            f"{config.where}: hidden_size {hidden} is not a multiple of num_attention_heads {num}, and there is no "
            "head_dim",
            subject="head_dim",
        )
    return Heads(num, kv, config.size("head_dim", head_dim or hidden // num))


def attention(heads: Heads, rope: RopeSpec | None, **more: Any) -> AttentionSpec:
    """Attention with the usual scale, one over the root of the head's size; `more` are other fields of it."""
    fields = {"scale": heads.head_dim**-0.5, **more}
    return AttentionSpec(heads.num_heads, heads.num_kv_heads, heads.head_dim, rope, **fields)


def network(
    config: HFConfig,
    layers: Sequence[LayerSpec],
    *,
    max_position: int,
    tied: bool = False,
    eps_field: str = "rms_norm_eps",
    eps: float = 1e-6,
    **more: Any,
) -> DecoderSpec:
    """A decoder of these layers. max_position, tied and eps where the config leaves them out; `more`: other fields."""
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=config.size("hidden_size"),
        norm_eps=config.positive(eps_field, eps),
        layers=tuple(layers),
        tied=config.get("tie_word_embeddings", bool, tied),
        max_position=config.size("max_position_embeddings", max_position),
        ignored_tensors=("*.rotary_emb.inv_freq",),
        **more,
    )


def num_layers(config: HFConfig) -> int:
    """How many layers there are."""
    return config.size("num_hidden_layers", most=4096)


def activation(config: HFConfig, field: str = "hidden_act", default: str = "silu", *, gated: bool = True) -> str:
    """An activation's name as a kind of act_mul, or of act where it is not gated."""
    known = _ACTIVATIONS if gated else _ACTIVATIONS | _NOT_GATED
    name = config.get(field, str, default)
    if name not in known:
        raise ModelError(
            f"{config.where}: {field} {name!r} is not supported; supported: {', '.join(sorted(known))}", subject=name
        )
    return known[name]


def layer_kinds(config: HFConfig, slides: Callable[[int], bool]) -> list[str]:
    """FULL or SLIDING for each layer: layer_types, or where a config leaves it out what `slides` says of its number."""
    count, listed = num_layers(config), config.data.get("layer_types")
    if listed is None:
        return [SLIDING if slides(number) else FULL for number in range(count)]
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


def require_window(config: HFConfig, kinds: Sequence[str], window: int) -> None:
    """ModelError if some layers slide and there is no window (0) for them."""
    if SLIDING in kinds and not window:
        off = "use_sliding_window is not set" if config.data.get("use_sliding_window") is False else "it is null"
        raise ModelError(
            f"{config.where}: the field 'sliding_window' gives no window ({off}), but there are layers of {SLIDING}",
            subject="sliding_window",
        )


def alike(config: HFConfig, window: int = 0) -> None:
    """ModelError if layer_types says that layers differ, of an architecture whose layers all have this window."""
    listed, kind = config.data.get("layer_types"), SLIDING if window else FULL
    if listed is not None and (not isinstance(listed, list) or any(one != kind for one in listed)):
        raise ModelError(
            f"{config.where}: layer_types {listed!r} is not supported: the layers of this architecture are all alike, "
            f"and with this sliding_window of {kind}",
            subject="layer_types",
        )


def routing(config: HFConfig, *, num_experts: int, top_k: int, renorm: bool) -> Routing | None:
    """How experts are chosen, by their softmax; None if there are none. The sizes are those of a config without."""
    names = ("num_local_experts", "num_experts")  # one field by two names
    given = {config.get(name, int, num_experts) for name in names if config.data.get(name) is not None}
    if len(given) > 1:
        raise ModelError(
            f"{config.where}: num_local_experts and num_experts are two names of one field, got {sorted(given)}",
            subject="num_experts",
        )
    count = given.pop() if given else num_experts
    if count == 0:
        return None
    chosen = config.size("num_experts_per_tok", top_k)
    if not 1 <= count <= 1 << 16 or chosen > count:
        raise ModelError(
            f"{config.where}: num_experts_per_tok {chosen} must be at most the number of experts, {count}",
            subject="num_experts_per_tok",
        )
    return Routing(count, chosen, renorm=renorm)


def refuse(config: HFConfig, field: str, why: str) -> None:
    """ModelError if the field is there and says anything but null or false."""
    if (value := config.data.get(field)) is not None and value is not False:
        raise ModelError(f"{config.where}: {field} {value!r} is not supported: {why}", subject=field)
