"""DecoderSpec: what a decoder network is, in numbers. The decoder reads nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

from aphrodite.layers.mlp import MLPNames
from aphrodite.layers.moe import ExpertNames, Routing
from aphrodite.layers.norm import RMS, NormForm
from aphrodite.layers.rope import Longest, RopeSpec


@dataclass(frozen=True)
class AttentionSpec:
    """Attention of one layer.

    rope     None: positions do not enter
    scale    multiplies q.k
    window   with w > 0 a token sees itself and the w - 1 before it
    softcap  with c > 0 scores become c tanh(score / c)
    qk_norm  each head of q and k is normalised before it is rotated
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeSpec | None
    scale: float
    window: int = 0
    softcap: float = 0.0
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False


@dataclass(frozen=True)
class MLPSpec:
    """Feed-forward of one layer.

    act      of one that is gated, or of experts, a kind of act_mul; else of act
    gated    act(gate(x)) * up(x) goes down, and not act(up(x))
    experts  how a token's experts are chosen, each of inner_size; None: there is one network for all
    """

    inner_size: int
    act: str
    bias: bool = False
    gated: bool = True
    experts: Routing | None = None


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer: a mixer and a feed-forward, each behind a norm.

    post_norms  what each of the two gives is normalised as well, before it is added to the residual
    parallel    both read one norm of the same residual, and the sum of both is added to it
    """

    attention: AttentionSpec
    mlp: MLPSpec
    post_norms: bool = False
    parallel: bool = False


@dataclass(frozen=True)
class Names:
    """Where a checkpoint keeps things. `layer` has a {} for the layer's number; what a layer has is named within it."""

    embedding: str = "model.embed_tokens"
    layer: str = "model.layers.{}"
    attention: str = "self_attn"
    attention_norm: str = "input_layernorm"
    post_attention_norm: str = ""
    mlp: MLPNames = field(default_factory=MLPNames)
    experts: ExpertNames = field(default_factory=ExpertNames)
    mlp_norm: str = "post_attention_layernorm"
    post_mlp_norm: str = ""
    final_norm: str = "model.norm"
    head: str = "lm_head"


@dataclass(frozen=True)
class DecoderSpec:
    """A whole decoder.

    max_position     the config's max_position_embeddings; `longest` is what sequences may have
    norm_offset      added to the weights of every norm (Gemma keeps them around 0)
    norm, norm_bias  the kind of every norm (layers/norm.py), and whether those about the mean have a bias
    embedding_scale  multiplies embeddings, in the type of the activations
    logit_softcap    with c > 0 logits become c tanh(logit / c)
    logit_scale      multiplies logits, before they are capped
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
    norm: str = RMS
    norm_bias: bool = False
    logit_scale: float = 1.0

    @property
    def norms(self) -> NormForm:
        """What all norms have in common."""
        return NormForm(self.norm_eps, self.norm_offset, self.norm, self.norm_bias)

    @property
    def longest(self) -> Longest:
        """The longest sequence, as the scaling that allows least sees it."""
        scalings = {layer.attention.rope.scaling for layer in self.layers if layer.attention.rope is not None}
        plain = Longest(self.max_position, "the model's max_position_embeddings")
        found = [scaling.longest(self.max_position) or plain if scaling else plain for scaling in scalings]
        return min(found, key=lambda one: (one.num_tokens, one.may_be_raised), default=plain)
