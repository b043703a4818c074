"""A network made of Transformers' modules, as the engine sees it: parameters, cache groups, Programs."""

from __future__ import annotations

import itertools

from aphrodite.kv.spec import CacheGroup, LayerKV
from aphrodite.models.fallback.run import MODULES, Section
from aphrodite.models.fallback.spec import ModuleSpec
from aphrodite.models.step import R, S, T, record_inputs, record_slots
from aphrodite.ops import attention as ops
from aphrodite.ops.kernel import Extent
from aphrodite.platform.dtypes import ITEMSIZE
from aphrodite.program.parameters import Parameter, Source
from aphrodite.program.trace import Program, Tracer
from aphrodite.program.values import KVRef, ModulesRef, Value, WeightRef


class ModuleNetwork:
    """The counterpart of Decoder. The forward Program has one call for all layers; what that call asks of attention
    is a Program of its own, which `sections` takes apart.

    dtype  of weights, activations and cache
    """

    switches = ()  # no sequence may grow beyond a length at which its keys would be others (`find.longest`)

    def __init__(self, spec: ModuleSpec, dtype: str) -> None:
        self.spec = spec
        self._dtype = dtype
        self._calls = spec.probed.calls
        windows = sorted({call.window for call in self._calls})  # a cache group each, full attention first
        self.kv_refs = tuple(
            KVRef(number, windows.index(c.window), c.num_kv_heads, c.head_dim, c.value_dim, dtype)
            for number, c in enumerate(self._calls)
        )
        self.cache_groups = tuple(self._cache_group(number, window) for number, window in enumerate(windows))
        self.parameters = {name: _parameter(name, shape, dtype) for name, shape in spec.probed.tensors.items()}

    def record(self, *, block_size: int, table_width: int, meta_words: int) -> Program:
        """The forward Program: row state and the step's plan in, logits [R, V] out. What attention reads of the step
        lies in memory that both Programs share, its plan (meta_words) with the other."""
        t = Tracer("forward")
        inputs = record_inputs(t, *_lengths(t))
        for group in range(len(self.cache_groups)):
            slots, tables = _places(t, group, table_width)
            record_slots(
                t, inputs, group=group, block_size=block_size, table_width=table_width, slots=slots, tables=tables
            )
        t.call(
            MODULES,
            "modules",
            logits=t.external("logits", (R, self.spec.vocab_size), self._dtype),
            token_ids=inputs.token_ids,
            positions=inputs.positions,
            seq_lens=inputs.seq_lens,
            logit_rows=inputs.logit_rows,
            modules=ModulesRef(),
        )
        return t.finish()

    def record_attention(self, *, table_width: int, meta_words: int) -> Program:
        """The attention Program: a plan of each cache group, once a step; then two calls for each of the modules'."""
        t = Tracer("attention")
        cu_q, seq_lens = _lengths(t)
        places = [_places(t, group, table_width) for group in range(len(self.cache_groups))]
        metas = [
            t.call(ops.attn_plan, f"step.plan{group}", sizes={"P": meta_words}, seq_lens=seq_lens, cu_q=cu_q)
            for group in range(len(self.cache_groups))
        ]
        for section, cache in zip(self.sections, self.kv_refs, strict=True):
            call = section.call
            assert len(t.calls) == section.start
            slots, tables = places[cache.group]
            q = self._memory(t, section.query, call.num_heads, call.head_dim)
            k = self._memory(t, section.key, call.num_kv_heads, call.head_dim)
            v = self._memory(t, section.value, call.num_kv_heads, call.value_dim)
            t.call(ops.kv_write, f"{call.name}.kv_write", cache=cache, k=k, v=v, slots=slots)
            t.call(
                ops.attn_paged,
                f"{call.name}.attn",
                out=self._memory(t, section.out, call.num_heads, call.value_dim),
                q=q,
                cache=cache,
                tables=tables,
                seq_lens=seq_lens,
                cu_q=cu_q,
                meta=metas[cache.group],
                sinks=t.external(section.sinks, (call.num_heads,), self._dtype) if section.sinks else None,
                scale=call.scale,
                window=call.window,
                softcap=call.softcap,
            )
            assert len(t.calls) == section.stop
        return t.finish()

    @property
    def num_plans(self) -> int:
        """Calls at the beginning of the attention Program that are done once a step."""
        return len(self.cache_groups)

    @property
    def sections(self) -> tuple[Section, ...]:
        """Where each call of the modules is in the attention Program. Calls of one shape share their memory."""
        return tuple(
            Section(
                call,
                start,
                start + 2,
                query=f"q_{call.num_heads}x{call.head_dim}",
                key=f"k_{call.num_kv_heads}x{call.head_dim}",
                value=f"v_{call.num_kv_heads}x{call.value_dim}",
                out=f"out_{call.num_heads}x{call.value_dim}",
                sinks=f"sinks_{start}" if call.sinks else None,
            )
            for start, call in zip(itertools.count(self.num_plans, 2), self._calls, strict=False)
        )

    def _memory(self, t: Tracer, name: str, num_heads: int, width: int) -> Value:
        return t.externals.get(name) or t.external(name, (T, num_heads, width), self._dtype)

    def _cache_group(self, number: int, window: int) -> CacheGroup:
        layers = tuple(
            LayerKV(ref.num_heads, ref.head_dim, ref.value_dim, ITEMSIZE[ref.dtype])
            for ref in self.kv_refs
            if ref.group == number
        )
        return CacheGroup("sliding", layers, window) if window else CacheGroup("full", layers)


def _lengths(t: Tracer) -> tuple[Value, Value]:
    return t.external("cu_q", (Extent("S", 1, 1),), "i32"), t.external("seq_lens", (S,), "i32")


def _places(t: Tracer, group: int, table_width: int) -> tuple[Value, Value]:
    return t.external(f"slots{group}", (T,), "i64"), t.external(f"tables{group}", (S, table_width), "i32")


def _parameter(name: str, shape: tuple[int, ...], dtype: str) -> Parameter:
    shape = shape or (1,)  # a number alone is a vector of one
    return Parameter(WeightRef(name, shape, dtype), (Source(name, shape),))
