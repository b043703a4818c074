"""Qwen 3 with experts: Qwen3MoeForCausalLM. A Qwen 3 in which some layers, or all, have experts."""

from __future__ import annotations

from aphrodite.errors import ModelError
from aphrodite.models.config import HFConfig
from aphrodite.models.family import activation, alike, attention, network, num_layers, read_heads, routing
from aphrodite.models.qwen2 import MAX_POSITION, read_window
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import DecoderSpec, LayerSpec, MLPSpec

ARCHITECTURES = ("Qwen3MoeForCausalLM",)


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Qwen 3 MoE config describes. All layers have the window, if there is one."""
    window = read_window(config)
    alike(config, window)
    heads = read_heads(config, kv_heads=4)
    biased = config.get("attention_bias", bool, False)
    mixer = attention(
        heads,
        read_rope(config, heads.head_dim, max_position=MAX_POSITION),
        window=window,
        qk_norm=True,
        qkv_bias=biased,
        out_bias=biased,
    )
    act = activation(config)
    experts = routing(config, num_experts=128, top_k=8, renorm=config.get("norm_topk_prob", bool, False))
    sparse = MLPSpec(config.size("moe_intermediate_size", 768), act, experts=experts)
    dense = MLPSpec(config.size("intermediate_size", 6144), act)
    only, step = _dense_layers(config), config.size("decoder_sparse_step", 1)
    layers = [
        LayerSpec(mixer, sparse if experts and number not in only and (number + 1) % step == 0 else dense)
        for number in range(num_layers(config))
    ]
    return network(config, layers, max_position=MAX_POSITION)


def _dense_layers(config: HFConfig) -> list[int]:
    """Layers that have no experts whatever their number."""
    listed = config.data.get("mlp_only_layers") or []
    if not isinstance(listed, list) or not all(type(number) is int for number in listed):
        raise ModelError(
            f"{config.where}: the field 'mlp_only_layers' must list numbers of layers, got {listed!r}",
            subject="mlp_only_layers",
        )
    return listed
