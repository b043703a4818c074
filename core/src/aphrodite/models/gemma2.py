"""Gemma 2: Gemma2ForCausalLM. Gemma 3 shares `read_attention` and `gemma` with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aphrodite.layers.attention import Heads
from aphrodite.layers.rope import RopeSpec
from aphrodite.models.config import HFConfig
from aphrodite.models.family import (
    SLIDING,
    activation,
    attention,
    layer_kinds,
    network,
    read_heads,
    refuse,
    require_window,
)
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MLPSpec, Names

ARCHITECTURES = ("Gemma2ForCausalLM",)
MAX_POSITION = 8192
NAMES = Names(
    post_attention_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    post_mlp_norm="post_feedforward_layernorm",
)


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Gemma 2 config describes."""
    heads = gemma_heads(config)
    rope = read_rope(config, heads.head_dim, max_position=MAX_POSITION)
    kinds = layer_kinds(config, lambda number: number % 2 == 0)
    softcap = config.bound("attn_logit_softcapping", float, 50.0)
    mixers = {kind: read_attention(config, kind, heads, rope, softcap=softcap) for kind in dict.fromkeys(kinds)}
    return gemma(config, kinds, mixers, MAX_POSITION, config.bound("final_logit_softcapping", float, 30.0))


def gemma_heads(config: HFConfig) -> Heads:
    """Heads of a Gemma."""
    return read_heads(config, kv_heads=4, head_dim=256)


def read_attention(
    config: HFConfig, kind: str, heads: Heads, rope: RopeSpec, *, softcap: float = 0.0, qk_norm: bool = False
) -> AttentionSpec:
    """Attention of the layers of one kind: only those of SLIDING have a window."""
    refuse(config, "use_bidirectional_attention", "a decoder is causal")
    given = config.bound("sliding_window", int, 4096)  # read in any case: without sliding layers it says nothing
    window = given if kind == SLIDING else 0
    require_window(config, [kind], window)
    biased = config.get("attention_bias", bool, False)
    return attention(
        heads,
        rope,
        scale=config.positive("query_pre_attn_scalar", 256.0) ** -0.5,
        window=window,
        softcap=softcap,
        qk_norm=qk_norm,
        qkv_bias=biased,
        out_bias=biased,
    )


def gemma(
    config: HFConfig,
    kinds: Sequence[str],
    mixers: Mapping[str, AttentionSpec],
    max_position: int,
    logit_softcap: float,
) -> DecoderSpec:
    """A Gemma of layers of these kinds. max_position where the config leaves it out."""
    mlp = MLPSpec(config.size("intermediate_size"), activation(config, "hidden_activation", "gelu_pytorch_tanh"))
    return network(
        config,
        [LayerSpec(mixers[kind], mlp, post_norms=True) for kind in kinds],
        max_position=max_position,
        tied=True,
        norm_offset=1,
        embedding_scale=config.size("hidden_size") ** 0.5,
        logit_softcap=logit_softcap,
        names=NAMES,
    )
