"""DecoderSpec: what a decoder network is, in numbers. The decoder reads nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.layers.rope import RopeSpec


@dataclass(frozen=True)
class AttentionSpec:
    """Attention of one layer.

    scale    multiplies q.k
    window   with w > 0 a token sees itself and the w - 1 before it
    softcap  with c > 0 scores become c tanh(score / c)
    qk_norm  each head of q and k is normalised before it is rotated
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeSpec
    scale: float
    window: int = 0
    softcap: float = 0.0
    qk_norm: bool = False
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
    """One decoder layer: a mixer and a feed-forward, each behind a norm.

    post_norms  what each of the two gives is normalised as well, before it is added to the residual
    """

    attention: AttentionSpec
    mlp: MLPSpec
    post_norms: bool = False


@dataclass(frozen=True)
class Names:
    """Where a checkpoint keeps things. `layer` has a {} for the layer's number."""

    embedding: str = "model.embed_tokens"
    layer: str = "model.layers.{}"
    attention: str = "self_attn"
    attention_norm: str = "input_layernorm"
    post_attention_norm: str = ""
    mlp: str = "mlp"
    mlp_norm: str = "post_attention_layernorm"
    post_mlp_norm: str = ""
    final_norm: str = "model.norm"
    head: str = "lm_head"


@dataclass(frozen=True)
class DecoderSpec:
    """A whole decoder.

    max_position     the longest sequence it was made for
    norm_offset      added to the weights of every norm (Gemma keeps them around 0)
    embedding_scale  multiplies embeddings, in the type of the activations
    logit_softcap    with c > 0 logits become c tanh(logit / c)
    """

    vocab_size: int
    hidden_size: int
    norm_eps: float
    layers: tuple[LayerSpec, ...]
    tied: bool
    max_position: int
    norm_offset: int = 0
    embedding_scale: float = 1.0
    logit_softcap: float = 0.0
    names: Names = Names()
    ignored_tensors: tuple[str, ...] = ()  # globs of checkpoint tensors that carry no parameter
