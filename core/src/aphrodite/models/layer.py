"""One decoder layer, built from its spec."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.layers.attention import Attention, Heads, Scores, StepInputs
from aphrodite.layers.mlp import GatedMLP, PlainMLP
from aphrodite.layers.moe import Experts
from aphrodite.layers.norm import Norm, NormForm, norm_of
from aphrodite.models.spec import LayerSpec, Names
from aphrodite.ops import norm as ops
from aphrodite.program.parameters import ParameterList
from aphrodite.program.trace import Tracer
from aphrodite.program.values import KVRef, Value


@dataclass(frozen=True)
class DecoderLayer:
    """Attention and feed-forward around a residual. What a layer gives is added to it by whatever norm comes next.

    mlp_norm is None where both read the same norm and nothing lies between them.
    """

    site: str
    attention_norm: Norm
    attention: Attention
    post_attention_norm: Norm | None
    mlp_norm: Norm | None
    mlp: GatedMLP | PlainMLP | Experts
    post_mlp_norm: Norm | None

    def __call__(self, t: Tracer, x: Value | None, residual: Value, step: StepInputs) -> Value:
        """residual [T, H] is written; x [T, H] is still to be added to it, None in the first layer -> the next x."""
        normed = self.attention_norm(t, residual) if x is None else self.attention_norm.after_add(t, x, residual)
        x = self.attention(t, normed, step)
        if self.post_attention_norm is not None:
            x = self.post_attention_norm.in_place(t, x)
        if self.mlp_norm is not None:
            normed = self.mlp_norm.after_add(t, x, residual)
        else:
            t.call(ops.add, f"{self.site}.add", res=residual, x=x)
        x = self.mlp(t, normed)
        return x if self.post_mlp_norm is None else self.post_mlp_norm.in_place(t, x)


def decoder_layer(
    params: ParameterList,
    site: str,
    source: str,
    spec: LayerSpec,
    *,
    names: Names,
    hidden: int,
    norms: NormForm,
    cache: KVRef,
    max_len: int,
) -> DecoderLayer:
    """The layer at `site`, from the checkpoint's tensors under `source`. max_len: positions in the rotary table."""
    a = spec.attention

    def norm(name: str, tensor: str) -> Norm:
        return norm_of(params, f"{site}.{name}", f"{source}.{tensor}", hidden, norms)

    return DecoderLayer(
        site,
        norm("attention_norm", names.attention_norm),
        Attention.of(
            params,
            f"{site}.attention",
            f"{source}.{names.attention}",
            hidden=hidden,
            heads=Heads(a.num_heads, a.num_kv_heads, a.head_dim),
            scores=Scores(a.scale, a.window, a.softcap),
            cache=cache,
            rope=a.rope.constant(max_len) if a.rope else None,
            rope_style=a.rope.style if a.rope else "",
            rope_switch=a.rope.switch(max_len) if a.rope else None,
            qkv_bias=a.qkv_bias,
            out_bias=a.out_bias,
            norms=norms if a.qk_norm else None,
        ),
        norm("post_attention_norm", names.post_attention_norm) if spec.post_norms else None,
        None if spec.parallel else norm("mlp_norm", names.mlp_norm),
        _feed_forward(params, f"{site}.mlp", source, spec, names, hidden),
        norm("post_mlp_norm", names.post_mlp_norm) if spec.post_norms else None,
    )


def _feed_forward(
    params: ParameterList, site: str, source: str, spec: LayerSpec, names: Names, hidden: int
) -> GatedMLP | PlainMLP | Experts:
    mlp = spec.mlp
    if mlp.experts is not None:
        return Experts.of(
            params,
            site,
            source,
            names=names.experts,
            hidden=hidden,
            inner=mlp.inner_size,
            kind=mlp.act,
            routing=mlp.experts,
        )
    form = GatedMLP if mlp.gated else PlainMLP
    return form.of(
        params, site, source, names=names.mlp, hidden=hidden, inner=mlp.inner_size, kind=mlp.act, bias=mlp.bias
    )
