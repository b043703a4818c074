"""The one decoder: a network built from a DecoderSpec, run once on symbols to record the forward Program."""

from __future__ import annotations

from aphrodite.kv.spec import CacheGroup, LayerKV
from aphrodite.layers.attention import GroupInputs, StepInputs
from aphrodite.layers.embedding import Embedding, select
from aphrodite.layers.linear import Linear
from aphrodite.layers.norm import norm_of
from aphrodite.models.layer import DecoderLayer, decoder_layer
from aphrodite.models.spec import DecoderSpec
from aphrodite.models.step import R, record_inputs, record_slots
from aphrodite.ops import attention as attention_ops
from aphrodite.ops import elementwise
from aphrodite.ops import rows as row_ops
from aphrodite.platform.dtypes import ITEMSIZE
from aphrodite.program.parameters import Parameter, ParameterList
from aphrodite.program.trace import Program, Tracer
from aphrodite.program.values import KVRef, RowsRef, Value


class Decoder:
    """Layers with names of parameters; holds no tensor.

    dtype    of weights, activations and cache
    max_len  positions in the rotary tables
    switches, of a decoder: lengths beyond which all keys of a sequence are others, with frequencies of their own
    """

    def __init__(self, spec: DecoderSpec, dtype: str, max_len: int) -> None:
        self.spec = spec
        params = ParameterList(dtype)
        hidden, names = spec.hidden_size, spec.names
        table = params.add("embedding", [(f"{names.embedding}.weight", (spec.vocab_size, hidden))])
        self._embedding = Embedding("embedding", table, spec.embedding_scale)
        windows = sorted({layer.attention.window for layer in spec.layers})  # a cache group each, full attention first
        self._layers = [
            self._layer(params, number, windows.index(layer.attention.window), max_len)
            for number, layer in enumerate(spec.layers)
        ]
        self._final_norm = norm_of(params, "final_norm", names.final_norm, hidden, spec.norms)
        self._head = (
            Linear("head", table)
            if spec.tied
            else Linear.stacked(params, "head", [(names.head, spec.vocab_size)], hidden, bias=False)
        )
        switches = {layer.attention.rope_switch for layer in self._layers}
        self.switches = tuple(sorted(at for at in switches if at is not None))
        self._max_len = max_len
        self.parameters: dict[str, Parameter] = params.parameters
        self.kv_refs = tuple(layer.attention.cache for layer in self._layers)
        self.cache_groups = tuple(self._cache_group(number, window) for number, window in enumerate(windows))

    def record(self, *, block_size: int, table_width: int, meta_words: int) -> Program:
        """The forward Program: row state and the step's plan in, logits [R, V] out.

        table_width  blocks a sequence may have; meta_words: what Limits says attn_plan kernels need
        """
        t = Tracer("forward")
        step = self._step_inputs(t, block_size, table_width, meta_words)
        residual = self._embedding(t, step.token_ids)
        x: Value | None = None
        for layer in self._layers:
            x = layer(t, x, residual, step)
        assert x is not None, "a decoder has at least one layer"
        x = select(t, "select.x", x, step.logit_rows)
        residual = select(t, "select.residual", residual, step.logit_rows)
        x = self._final_norm.after_add(t, x, residual)
        logits = t.external("logits", (R, self.spec.vocab_size), x.dtype)
        self._head.into(t, x, logits)
        if self.spec.logit_scale != 1.0:
            t.call(elementwise.scale, "head.scale", x=logits, factor=self.spec.logit_scale)
        if self.spec.logit_softcap:
            t.call(elementwise.softcap, "head.softcap", x=logits, cap=self.spec.logit_softcap)
        return t.finish()

    def _layer(self, params: ParameterList, number: int, group: int, max_len: int) -> DecoderLayer:
        spec, names = self.spec.layers[number], self.spec.names
        a = spec.attention
        return decoder_layer(
            params,
            f"layers.{number}",
            names.layer.format(number),
            spec,
            names=names,
            hidden=self.spec.hidden_size,
            norms=self.spec.norms,
            cache=KVRef(number, group, a.num_kv_heads, a.head_dim, a.head_dim, params.dtype),
            max_len=max_len,
        )

    def _cache_group(self, number: int, window: int) -> CacheGroup:
        layers = tuple(
            LayerKV(ref.num_heads, ref.head_dim, ref.value_dim, ITEMSIZE[ref.dtype])
            for ref in self.kv_refs
            if ref.group == number
        )
        return CacheGroup("sliding", layers, window) if window else CacheGroup("full", layers)

    def _step_inputs(self, t: Tracer, block_size: int, table_width: int, meta_words: int) -> StepInputs:
        """Record what turns the step's plan and the row state into what layers read."""
        inputs = record_inputs(t)
        groups = {}
        for group in range(len(self.cache_groups)):
            slots, tables = record_slots(t, inputs, group=group, block_size=block_size, table_width=table_width)
            meta = t.call(
                attention_ops.attn_plan,
                f"step.plan{group}",
                sizes={"P": meta_words},
                seq_lens=inputs.seq_lens,
                cu_q=inputs.cu_q,
            )
            groups[group] = GroupInputs(slots, tables, meta)
        places = {
            at: t.call(
                row_ops.table_positions,
                f"step.rope{at}",
                positions=inputs.positions,
                row_of_token=inputs.row_of_token,
                rows=RowsRef(),
                original=at,
                stride=self._max_len,
            )
            for at in self.switches
        }
        return StepInputs(
            inputs.token_ids, inputs.positions, inputs.seq_lens, inputs.cu_q, inputs.logit_rows, groups, places
        )
