"""What an engine takes of a device beside its KV cache, found out before any of it is taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from aphrodite.models.decoder import Decoder
from aphrodite.models.fallback.network import ModuleNetwork
from aphrodite.ops.kernel import Dims
from aphrodite.platform.dtypes import ITEMSIZE
from aphrodite.platform.layout import WeightLayout
from aphrodite.program.buffers import plan_arena
from aphrodite.program.plan import Plan
from aphrodite.program.values import ConstantRef
from aphrodite.runner.programs import record_updates
from aphrodite.runner.rows import RowTable
from aphrodite.sampling.program import Variant, record
from aphrodite.sizes import Sizes, Taken


def plain_weights(decoder: Decoder | ModuleNetwork) -> Taken:
    """The weights as they are computed with, if nothing packs them: before kernels are chosen, no more is known."""
    refs = [parameter.ref for parameter in decoder.parameters.values()]
    return Taken(sum(math.prod(ref.shape) * ITEMSIZE[ref.dtype] for ref in refs))


def footprint(
    decoder: Decoder | ModuleNetwork,
    plans: Iterable[Plan],
    layouts: Mapping[str, WeightLayout],
    sizes: Sizes,
    vocab_size: int,
    dtype: str,
) -> Taken:
    """The weights in the layouts that were chosen for them, and what steps need at the largest sizes.

    Of the sampling Programs, which are planned when they are first needed, the least and the largest are counted.
    """
    plans = list(plans)
    chosen = {name: layout for plan in plans for name, layout in plan.layouts.items()}
    weights = 0
    for parameter in decoder.parameters.values():
        ref = parameter.ref
        shape = layouts[chosen[ref.name]].storage(ref.shape) if ref.name in chosen else ref.shape
        weights += math.prod(shape) * ITEMSIZE[ref.dtype]
    bounds = sizes.bounds
    variants = (Variant(random=False, num_logprobs=-1), Variant.fullest())
    sampling = [record(variant, vocab_size=vocab_size, dtype=dtype) for variant in variants]
    named = {  # memory of one name and shape is one, whichever Programs use it
        (name, value.sizes(bounds)): ITEMSIZE[value.dtype]
        for program in (*(plan.program for plan in plans), *sampling, record_updates())
        for name, value in program.externals.items()
    }
    tables = {
        arg.name: math.prod(arg.shape) * ITEMSIZE[arg.dtype]
        for plan in plans
        for call in plan.program.calls
        for arg in call.args.values()
        if isinstance(arg, ConstantRef)
    }
    buffers = (
        sum(plan.space.num_bytes for plan in plans)
        + sum(plan_arena(program.calls, bounds, {}).num_bytes for program in sampling)
        + sum(math.prod(shape) * size for (_, shape), size in named.items())
        + sum(tables.values())
        + _row_bytes(sizes, bounds, vocab_size)
    )
    return Taken(weights, buffers)


def _row_bytes(sizes: Sizes, bounds: Dims, vocab_size: int) -> int:
    table = RowTable(
        num_rows=bounds.S,
        max_len=sizes.max_model_len,
        table_width=sizes.table_width,
        num_groups=len(sizes.kv.groups),
        vocab_size=vocab_size,
    )
    return math.prod(table.shape) * ITEMSIZE["i32"]
