"""Llama 2, 3 and 3.x: LlamaForCausalLM."""

from __future__ import annotations

from aphrodite.models.config import HFConfig
from aphrodite.models.family import activation, alike, attention, network, num_layers, read_heads
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import DecoderSpec, LayerSpec, MLPSpec

ARCHITECTURES = ("LlamaForCausalLM",)


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Llama config describes; the checkpoint's names are DecoderSpec's defaults."""
    alike(config)
    heads = read_heads(config)
    biased = config.get("attention_bias", bool, False)
    mixer = attention(heads, read_rope(config, heads.head_dim), qkv_bias=biased, out_bias=biased)
    mlp = MLPSpec(config.size("intermediate_size"), activation(config), bias=config.get("mlp_bias", bool, False))
    return network(config, [LayerSpec(mixer, mlp)] * num_layers(config), max_position=2048)
