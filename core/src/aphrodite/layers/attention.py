"""Attention over the paged cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aphrodite.layers.linear import Linear
from aphrodite.layers.norm import HeadNorm, NormForm, head_norm_of
from aphrodite.ops import attention as ops
from aphrodite.ops import rope as rope_ops
from aphrodite.program.parameters import ParameterList
from aphrodite.program.trace import Tracer
from aphrodite.program.values import ConstantRef, KVRef, Value


@dataclass(frozen=True)
class GroupInputs:
    """What a step knows of one cache group. slots [T], tables [S, B], meta [P]"""

    slots: Value
    tables: Value
    meta: Value


@dataclass(frozen=True)
class StepInputs:
    """What a step's layers read. token_ids, positions [T]; seq_lens [S]; cu_q [S + 1]; logit_rows [R]

    table_positions  places [T] in rotary tables of two parts, by the length at which sequences change to the second
    """

    token_ids: Value
    positions: Value
    seq_lens: Value
    cu_q: Value
    logit_rows: Value
    groups: Mapping[int, GroupInputs]
    table_positions: Mapping[int, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Heads:
    """num_heads query heads over num_kv_heads, each of head_dim."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Scores:
    """How a query weighs keys: scale q.k, bounded by softcap; it sees itself and the window - 1 before. 0: no bound."""

    scale: float
    window: int = 0
    softcap: float = 0.0


@dataclass(frozen=True)
class Attention:
    """Causal attention; q, k and v are one product, q and k are normalised if there are norms, rotated if there is a
    rope."""

    site: str
    qkv: Linear
    out: Linear
    heads: Heads
    scores: Scores
    cache: KVRef
    rope: ConstantRef | None
    rope_style: str
    rope_switch: int | None = None
    norms: tuple[HeadNorm, HeadNorm] | None = None

    @classmethod
    def of(
        cls,
        params: ParameterList,
        site: str,
        source: str,
        *,
        hidden: int,
        heads: Heads,
        scores: Scores,
        cache: KVRef,
        rope: ConstantRef | None,
        rope_style: str,
        rope_switch: int | None,
        qkv_bias: bool,
        out_bias: bool,
        norms: NormForm | None,
    ) -> Attention:
        q, kv = heads.num_heads * heads.head_dim, heads.num_kv_heads * heads.head_dim
        parts = [(f"{source}.q_proj", q), (f"{source}.k_proj", kv), (f"{source}.v_proj", kv)]
        qkv = Linear.stacked(params, f"{site}.qkv", parts, hidden, bias=qkv_bias, whole=f"{source}.qkv_proj")
        out = Linear.stacked(params, f"{site}.out", [(f"{source}.o_proj", hidden)], q, bias=out_bias)
        pair = None
        if norms is not None:
            q_norm, k_norm = (
                head_norm_of(params, f"{site}.{name}", f"{source}.{name}", number, heads.head_dim, norms)
                for name, number in (("q_norm", heads.num_heads), ("k_norm", heads.num_kv_heads))
            )
            pair = q_norm, k_norm
        return cls(site, qkv, out, heads, scores, cache, rope, rope_style, rope_switch, pair)

    def __call__(self, t: Tracer, x: Value, step: StepInputs) -> Value:
        """x [T, H] -> [T, H]"""
        h = self.heads
        q_size, kv_size = h.num_heads * h.head_dim, h.num_kv_heads * h.head_dim
        qkv = self.qkv(t, x)
        q = qkv.columns(0, q_size).heads(h.num_heads)
        k = qkv.columns(q_size, q_size + kv_size).heads(h.num_kv_heads)
        v = qkv.columns(q_size + kv_size, q_size + 2 * kv_size).heads(h.num_kv_heads)
        if self.norms is not None:
            q_norm, k_norm = self.norms
            q_norm.each_head(t, q)
            k_norm.each_head(t, k)
        if self.rope is not None:
            t.call(
                rope_ops.rope,
                f"{self.site}.rope",
                q=q,
                k=k,
                pos=step.positions if self.rope_switch is None else step.table_positions[self.rope_switch],
                cos_sin=self.rope,
                style=self.rope_style,
            )
        group = step.groups[self.cache.group]
        t.call(ops.kv_write, f"{self.site}.kv_write", cache=self.cache, k=k, v=v, slots=group.slots)
        y: Value = t.call(
            ops.attn_paged,
            f"{self.site}.attn",
            q=q,
            cache=self.cache,
            tables=group.tables,
            seq_lens=step.seq_lens,
            cu_q=step.cu_q,
            meta=group.meta,
            scale=self.scores.scale,
            window=self.scores.window,
            softcap=self.scores.softcap,
        )
        return self.out(t, y.flat())
