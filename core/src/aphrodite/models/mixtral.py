"""Mixtral: MixtralForCausalLM. A Mistral with experts in every layer."""

from __future__ import annotations

from aphrodite.errors import ModelError
from aphrodite.layers.moe import ExpertNames
from aphrodite.models.config import HFConfig
from aphrodite.models.family import activation, alike, attention, network, num_layers, read_heads, routing
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import DecoderSpec, LayerSpec, MLPSpec, Names

ARCHITECTURES = ("MixtralForCausalLM",)
MAX_POSITION = 131072
NAMES = Names(
    experts=ExpertNames(
        router="block_sparse_moe.gate",
        gate="block_sparse_moe.experts.{}.w1",
        up="block_sparse_moe.experts.{}.w3",
        down="block_sparse_moe.experts.{}.w2",
    )
)


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Mixtral config describes."""
    window = config.bound("sliding_window", int, 0)
    alike(config, window)
    heads = read_heads(config, kv_heads=8)
    rope = read_rope(config, heads.head_dim, theta=1e6, max_position=MAX_POSITION)
    experts = routing(config, num_experts=8, top_k=2, renorm=True)
    if experts is None:
        raise ModelError(f"{config.where}: num_local_experts must be at least 1, got 0", subject="num_local_experts")
    mlp = MLPSpec(config.size("intermediate_size"), activation(config), experts=experts)
    layers = [LayerSpec(attention(heads, rope, window=window), mlp)] * num_layers(config)
    return network(config, layers, max_position=MAX_POSITION, eps=1e-5, names=NAMES)
