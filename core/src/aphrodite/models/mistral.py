"""Mistral: MistralForCausalLM. A Llama whose layers may all see a window."""

from __future__ import annotations

from aphrodite.models.config import HFConfig
from aphrodite.models.family import activation, head_dim, refuse
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MLPSpec

ARCHITECTURES = ("MistralForCausalLM",)


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Mistral config describes; the checkpoint's names are DecoderSpec's defaults."""
    refuse(config, "layer_types", "every layer of a MistralForCausalLM is alike")
    heads = config.size("num_attention_heads")
    dim = head_dim(config, heads)
    attention = AttentionSpec(
        num_heads=heads,
        num_kv_heads=config.size("num_key_value_heads", heads),
        head_dim=dim,
        rope=read_rope(config, dim),
        scale=dim**-0.5,
        window=config.bound("sliding_window", int, 4096),
    )
    mlp = MLPSpec(config.size("intermediate_size"), activation(config))
    return DecoderSpec(
        vocab_size=config.size("vocab_size"),
        hidden_size=config.size("hidden_size"),
        norm_eps=config.positive("rms_norm_eps", 1e-6),
        layers=(LayerSpec(attention, mlp),) * config.size("num_hidden_layers", most=4096),
        tied=config.get("tie_word_embeddings", bool, False),
        max_position=config.size("max_position_embeddings", 131072),
        ignored_tensors=("*.rotary_emb.inv_freq",),
    )
