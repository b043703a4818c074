"""DecoderSpec: what a decoder network is, in numbers. The decoder reads nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.layers.rope import RopeSpec


@dataclass(frozen=True)
class AttentionSpec:
    """Attention of one layer."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeSpec
    qkv_bias: bool = False
    out_bias: bool = False


@dataclass(frozen=True)
class MLPSpec:
    """Gated feed-forward of one layer; act is a kind of act_mul."""

    inner_size: int
    act: str
    bias: bool = False


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer: a mixer and a feed-forward, each behind a norm."""

    attention: AttentionSpec
    mlp: MLPSpec


@dataclass(frozen=True)
class Names:
    """Where a checkpoint keeps things. `layer` has a {} for the layer's number."""

    embedding: str = "model.embed_tokens"
    layer: str = "model.layers.{}"
    attention: str = "self_attn"
    attention_norm: str = "input_layernorm"
    mlp: str = "mlp"
    mlp_norm: str = "post_attention_layernorm"
    final_norm: str = "model.norm"
    head: str = "lm_head"


@dataclass(frozen=True)
class DecoderSpec:
    """A whole decoder. max_position: the longest sequence it was made for."""

    vocab_size: int
    hidden_size: int
    norm_eps: float
    layers: tuple[LayerSpec, ...]
    tied: bool
    max_position: int
    names: Names = Names()
    ignored_tensors: tuple[str, ...] = ()  # globs of checkpoint tensors that carry no parameter
