"""Phi-3 and Phi-4: Phi3ForCausalLM. A Llama whose checkpoints hold q, k and v as one matrix, and gate and up as one."""

from __future__ import annotations

from aphrodite.layers.mlp import MLPNames
from aphrodite.models.config import HFConfig
from aphrodite.models.family import activation, alike, attention, network, num_layers, read_heads
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import DecoderSpec, LayerSpec, MLPSpec, Names

ARCHITECTURES = ("Phi3ForCausalLM",)
MAX_POSITION = 4096
NAMES = Names(mlp=MLPNames(gate_up="mlp.gate_up_proj"))


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Phi-3 config describes."""
    window = config.bound("sliding_window", int, 0)
    alike(config, window)
    heads = read_heads(config)
    rope = read_rope(
        config,
        heads.head_dim,
        max_position=MAX_POSITION,
        partial=True,
        aliases={"su": "longrope", "yarn": "longrope"},  # what the first checkpoints called it
    )
    mlp = MLPSpec(config.size("intermediate_size"), activation(config))
    layers = [LayerSpec(attention(heads, rope, window=window), mlp)] * num_layers(config)
    return network(config, layers, max_position=MAX_POSITION, eps=1e-5, names=NAMES)
