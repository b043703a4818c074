"""Gemma 2: Gemma2ForCausalLM. Gemma 3 shares `read_attention` and `network` with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aphrodite.errors import ModelError
from aphrodite.layers.rope import RopeSpec
from aphrodite.models.config import HFConfig
from aphrodite.models.family import SLIDING, activation, head_dim, layer_kinds, refuse
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MLPSpec, Names

ARCHITECTURES = ("Gemma2ForCausalLM",)
HEAD_DIM = 256  # where a config leaves it out
NAMES = Names(
    post_attention_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    post_mlp_norm="post_feedforward_layernorm",
)


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Gemma 2 config describes."""
    rope = read_rope(config, head_dim(config, config.size("num_attention_heads"), HEAD_DIM))
    kinds = layer_kinds(config, pattern=2)
    softcap = config.bound("attn_logit_softcapping", float, 50.0)
    attention = {kind: read_attention(config, kind, rope, softcap=softcap) for kind in dict.fromkeys(kinds)}
    return network(config, kinds, attention, 8192, config.bound("final_logit_softcapping", float, 30.0))


def read_attention(
    config: HFConfig, kind: str, rope: RopeSpec, *, softcap: float = 0.0, qk_norm: bool = False
) -> AttentionSpec:
    """Attention of the layers of one kind: only those of SLIDING have a window."""
    refuse(config, "use_bidirectional_attention", "a decoder is causal")
    window = config.bound("sliding_window", int, 4096) if kind == SLIDING else 0
    if kind == SLIDING and not window:
        raise ModelError(
            f"{config.where}: the field 'sliding_window' is null, but there are layers of {SLIDING}",
            subject="sliding_window",
        )
    heads = config.size("num_attention_heads")
    biased = config.get("attention_bias", bool, False)
    return AttentionSpec(
        num_heads=heads,
        num_kv_heads=config.size("num_key_value_heads"),
        head_dim=head_dim(config, heads, HEAD_DIM),
        rope=rope,
        scale=config.positive("query_pre_attn_scalar", 256.0) ** -0.5,
        window=window,
        softcap=softcap,
        qk_norm=qk_norm,
        qkv_bias=biased,
        out_bias=biased,
    )


def network(
    config: HFConfig,
    kinds: Sequence[str],
    attention: Mapping[str, AttentionSpec],
    max_position: int,
    logit_softcap: float,
) -> DecoderSpec:
    """A Gemma of layers of these kinds. max_position where the config leaves it out."""
    mlp = MLPSpec(config.size("intermediate_size"), activation(config, "hidden_activation", "gelu_pytorch_tanh"))
    hidden = config.size("hidden_size")
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        norm_eps=config.positive("rms_norm_eps", 1e-6),
        layers=tuple(LayerSpec(attention[kind], mlp, post_norms=True) for kind in kinds),
        tied=config.get("tie_word_embeddings", bool, True),
        max_position=config.size("max_position_embeddings", max_position),
        norm_offset=1,
        embedding_scale=hidden**0.5,
        logit_softcap=logit_softcap,
        names=NAMES,
        ignored_tensors=("*.rotary_emb.inv_freq",),
    )
