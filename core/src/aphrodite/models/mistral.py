"""Mistral: MistralForCausalLM. A Llama whose layers may all see a window."""

from __future__ import annotations

from aphrodite.models.config import HFConfig
from aphrodite.models.family import activation, alike, attention, network, num_layers, read_heads
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import DecoderSpec, LayerSpec, MLPSpec

ARCHITECTURES = ("MistralForCausalLM",)
MAX_POSITION = 131072


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Mistral config describes; the checkpoint's names are DecoderSpec's defaults."""
    window = config.bound("sliding_window", int, 4096)
    alike(config, window)
    heads = read_heads(config, kv_heads=8)
    mixer = attention(heads, read_rope(config, heads.head_dim, max_position=MAX_POSITION), window=window)
    mlp = MLPSpec(config.size("intermediate_size"), activation(config))
    return network(config, [LayerSpec(mixer, mlp)] * num_layers(config), max_position=MAX_POSITION)
