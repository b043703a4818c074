"""Llama 2, 3 and 3.x: LlamaForCausalLM."""

from __future__ import annotations

from aphrodite.models.config import HFConfig
from aphrodite.models.family import activation, head_dim
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MLPSpec

ARCHITECTURES = ("LlamaForCausalLM",)


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Llama config describes; the checkpoint's names are DecoderSpec's defaults."""
    heads = config.size("num_attention_heads")
    dim = head_dim(config, heads)
    biased = config.get("attention_bias", bool, False)
    attention = AttentionSpec(
        num_heads=heads,
        num_kv_heads=config.size("num_key_value_heads", heads),
        head_dim=dim,
        rope=read_rope(config, dim),
        scale=dim**-0.5,
        qkv_bias=biased,
        out_bias=biased,
    )
    mlp = MLPSpec(config.size("intermediate_size"), activation(config), bias=config.get("mlp_bias", bool, False))
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=config.size("hidden_size"),
        norm_eps=config.positive("rms_norm_eps", 1e-6),
        layers=(LayerSpec(attention, mlp),) * config.size("num_hidden_layers", most=4096),
        tied=config.get("tie_word_embeddings", bool, False),
        max_position=config.size("max_position_embeddings", 2048),
        ignored_tensors=("*.rotary_emb.inv_freq",),
    )
