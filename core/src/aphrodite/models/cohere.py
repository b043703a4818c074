"""Command R: CohereForCausalLM. Attention and feed-forward side by side behind one norm about the mean, scaled logits.
Cohere 2 shares `parallel_network` with it."""

from __future__ import annotations

from collections.abc import Sequence

from aphrodite.layers.norm import LAYER
from aphrodite.models.config import HFConfig
from aphrodite.models.family import activation, alike, attention, network, num_layers, read_heads
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MLPSpec

ARCHITECTURES = ("CohereForCausalLM",)
MAX_POSITION = 8192


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Command R config describes; with use_qk_norm each head of q and k is normalised (R+)."""
    alike(config)
    heads = read_heads(config)
    biased = config.get("attention_bias", bool, False)
    mixer = attention(
        heads,
        read_rope(config, heads.head_dim, theta=500000.0, max_position=MAX_POSITION, style="gptj"),
        qk_norm=config.get("use_qk_norm", bool, False),
        qkv_bias=biased,
        out_bias=biased,
    )
    return parallel_network(config, [mixer] * num_layers(config))


def parallel_network(config: HFConfig, mixers: Sequence[AttentionSpec]) -> DecoderSpec:
    """A network of parallel layers with these mixers; the checkpoint's names are DecoderSpec's defaults."""
    mlp = MLPSpec(config.size("intermediate_size"), activation(config))
    return network(
        config,
        [LayerSpec(mixer, mlp, parallel=True) for mixer in mixers],
        max_position=MAX_POSITION,
        tied=True,
        eps_field="layer_norm_eps",
        eps=1e-5,
        norm=LAYER,
        logit_scale=config.positive("logit_scale", 0.0625),
    )
