"""Replay: the Program as bound does what its references do call by call, in memory that nothing else uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from aphrodite.ops.activation import KINDS
from aphrodite.ops.constraints import C, between
from aphrodite.ops.kernel import Binding, Dims, Kernel, Run, Workspace
from aphrodite.ops.op import declared
from aphrodite.ops.table import COMPOSITES, OPS
from aphrodite.platform.layout import HND, NHD, KVLayout, KVView, Packed
from aphrodite.program.trace import Program
from aphrodite.program.values import ConstantRef, KVRef, RowsRef, Value, WeightRef
from tests.unit.program.parts import BLOCK, BOUNDS, Memory, at, fill, forward, planner

PROMPTS = {0: [3, 14, 15, 9, 2, 6], 2: [27, 18, 28], 3: [1]}
BLOCKS = {0: [5, 7], 2: [9], 3: [2]}


def interpret(program: Program, memory: Memory, externals: dict[str, Any], dims: Dims) -> None:
    """Every call's reference in turn, each value in memory of its own that starts as NaN."""
    bases: dict[Value, torch.Tensor] = {}

    def tensor(value: Value) -> torch.Tensor:
        if value.base.name:
            whole = externals[value.base.name]
        else:
            if value.base not in bases:
                kind = OPS["add@1"] and {"f32": torch.float32, "i64": torch.int64, "i32": torch.int32}[value.dtype]
                fresh = torch.empty(value.base.sizes(BOUNDS), dtype=kind)
                bases[value.base] = fresh.fill_(torch.nan if kind.is_floating_point else 1 << 20)
            whole = bases[value.base].as_strided(value.sizes(BOUNDS), value.strides(), value.offset)
        return whole.narrow(0, 0, value.extent.at(dims)) if value.extent else whole

    for call in program.calls:
        args: dict[str, Any] = {}
        for name, given in call.args.items():
            if isinstance(given, Value):
                args[name] = tensor(given)
            elif isinstance(given, (WeightRef, ConstantRef, KVRef, RowsRef)):
                args[name] = memory.resolve(given)
            else:
                args[name] = given
        call.op.reference(**{name: args[name] for name in declared(call.op.reference)})


def prepared(layout: KVLayout = NHD) -> Memory:
    memory = Memory(layout=layout)
    for row, tokens in PROMPTS.items():
        memory.start(row, tokens, BLOCKS[row])
    return memory


def steps() -> list[tuple[Dims, dict[str, list[int]]]]:
    """A mixed batch of a whole prompt, a chunk and a single token; then the rest of the chunk; then a decode step."""
    first = {"seq_rows": [0, 2, 3], "num_new": [4, 3, 1], "num_logits": [0, 1, 1], "draws": [0, 1, 1]}
    second = {"seq_rows": [3, 0, 2], "num_new": [1, 2, 1], "num_logits": [1, 2, 1], "draws": [1, 1, 1]}
    third = {"seq_rows": [0, 3], "num_new": [1, 1], "num_logits": [1, 1], "draws": [1, 1]}
    return [
        (Dims(T=8, S=3, R=2, max_q=4, max_k=4), first),
        (Dims(T=4, S=3, R=4, max_q=2, max_k=6), second),
        (Dims(T=2, S=2, R=2, max_q=1, max_k=7), third),
    ]


def compare(kernels: list[Kernel], layout: KVLayout = NHD, *, exact: bool = False) -> None:
    """Run the steps bound and interpreted, each on its own memory, committing the largest logit's id."""
    _, program = forward()
    bound_memory, plain_memory = prepared(layout), prepared(layout)
    bound = bound_memory.bind(program, planner(kernels, kv_layout=layout.name))
    externals = plain_memory.externals(program)
    commit = OPS["commit_rows@1"].reference
    for dims, columns in steps():
        fill(bound, **columns)
        bound.replay(dims)
        for name, values in columns.items():
            externals[name][: len(values)] = torch.tensor(values, dtype=torch.int32)
        interpret(program, plain_memory, externals, dims)
        got, expected = bound.externals["logits"][: dims.R], externals["logits"][: dims.R]
        assert expected.isfinite().all() and expected.std() > 0.1, "the comparison has something to compare"
        torch.testing.assert_close(got, expected, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-5)
        for name in ("draw_rows", "forced"):
            assert torch.equal(bound.externals[name][: dims.R], externals[name][: dims.R])
        for memory in (bound_memory, plain_memory):
            draw_rows = externals["draw_rows"][: dims.R]
            s = dims.S
            commit(memory.rows, expected.argmax(-1), draw_rows, externals["seq_rows"][:s], externals["num_new"][:s])
        assert torch.equal(bound_memory.rows.state[:-1], plain_memory.rows.state[:-1])


@pytest.mark.parametrize("layout", [NHD, HND], ids=lambda layout: layout.name)
def test_replay_is_the_references_call_by_call(layout: KVLayout) -> None:
    compare([], layout)


def reference_kernels() -> list[Kernel]:
    """The references again, as a plugin would bring them."""
    return [Kernel(name, "acme.ref", fn=op.reference, where=C(features=op.schema.features)) for name, op in OPS.items()]


def test_references_as_kernels_give_the_same_bits() -> None:
    compare(reference_kernels(), exact=True)


# A composite's kernel may write its outputs before it has read all of its inputs: only listed aliases are the same
# memory. These wipe them first.


def fused_mlp(out: Any, x: Any, w: Any, kind: str, bias: Any = None) -> None:
    out.fill_(torch.nan)
    y = torch.nn.functional.linear(x, w.data, bias)
    out.copy_(KINDS[kind](*y.chunk(2, -1)))


def fused_norm(x: Any, res: Any, w: Any, eps: float, offset: int = 0) -> None:
    res.add_(x)
    x.fill_(torch.nan)
    x.copy_(torch.nn.functional.rms_norm(res, res.shape[-1:], w + offset, eps))


COMPOSITE_KERNELS = [
    Kernel("gate_up_act@1", "acme.mlp", fn=fused_mlp, where=C(features=COMPOSITES["gate_up_act@1"].schema.features)),
    Kernel("add_rms_norm@1", "acme.norm", fn=fused_norm),
]


@pytest.mark.parametrize("kernel", COMPOSITE_KERNELS, ids=lambda kernel: kernel.op)
def test_a_composite_kernel_may_write_its_outputs_before_it_reads_its_inputs(kernel: Kernel) -> None:
    compare([kernel])


def test_a_choice_by_size_is_made_at_every_step() -> None:
    seen: list[tuple[str, int]] = []

    def counting(name: str) -> Callable[[Binding], Run]:
        return lambda binding: lambda dims: seen.append((name, dims.T))

    kernels = [
        Kernel("rope@1", "acme.few", bind=counting("few"), where=C(T=between(1, 4))),
        Kernel("rope@1", "acme.many", bind=counting("many"), tier=100),
    ]
    bound = prepared().bind(forward(layers=1)[1], planner(kernels))
    for dims, columns in steps():
        fill(bound, **columns)
        bound.replay(dims)
    assert seen == [("many", 8), ("few", 4), ("few", 2)], "the kernel is given the true size, chosen by the bucket"


# ---- what a kernel is bound to --------------------------------------------------------------------------------------


class Spy:
    """Kernels for every operation (and the composites) that only keep what they were bound with."""

    def __init__(self, scratch: int = 1000, zeroed: int = 64, *, composites: bool = True) -> None:
        self.bindings: list[tuple[str, Binding]] = []
        self.asked: list[tuple[str, Dims]] = []
        names = {**OPS, **(COMPOSITES if composites else {})}

        def workspace(facts: Any, bounds: Dims) -> Workspace:
            assert facts["features"] is not None
            return Workspace(scratch, zeroed)

        def keep(name: str) -> Callable[[Binding], Run]:
            def bind(binding: Binding) -> Run:
                self.bindings.append((name, binding))
                return lambda dims: None

            return bind

        self.kernels = [
            Kernel(n, "acme.spy", bind=keep(n), where=C(features=x.schema.features), workspace=workspace)
            for n, x in names.items()
            if n != "attn_plan@1"
        ]


def span(x: torch.Tensor) -> tuple[int, int]:
    """First byte, and the byte behind the last that any element touches."""
    if x.numel() == 0:
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.itemsize


def apart(one: torch.Tensor, other: torch.Tensor) -> bool:
    a, b = span(one), span(other)
    return max(a[0], b[0]) >= min(a[1], b[1])


def cells_apart(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors share no byte; strided views of one buffer may interleave."""
    if apart(one, other):
        return True

    def touched(x: torch.Tensor) -> set[int]:
        steps = [torch.arange(size) * stride for size, stride in zip(x.shape, x.stride(), strict=True)]
        grid = sum(s.view([-1 if i == n else 1 for n in range(x.ndim)]) for i, s in enumerate(steps))
        return {x.data_ptr() + int(at) * x.itemsize for at in torch.as_tensor(grid).flatten()}

    return not touched(one) & touched(other)


def test_workspace_and_arguments_of_a_call_lie_apart() -> None:
    spy = Spy()
    prepared().bind(forward()[1], planner(spy.kernels))
    checked = 0
    for name, binding in spy.bindings:
        assert binding.scratch.shape == (1000,) and binding.zeroed.shape == (64,)
        assert binding.scratch.data_ptr() % 256 == 0 and not binding.zeroed.any()
        tensors = {n: x for n, x in binding.args.items() if isinstance(x, torch.Tensor)}
        legal = {frozenset(pair) for pair in getattr(OPS.get(name), "aliases", ())}
        for (a, x), (b, y) in itertools.combinations(tensors.items(), 2):
            if frozenset((a, b)) not in legal:
                assert cells_apart(x, y), (name, a, b)
                checked += 1
        for n, x in tensors.items():
            assert apart(x, binding.scratch) and apart(x, binding.zeroed), (name, n)
        assert apart(binding.scratch, binding.zeroed)
    assert checked > 100


def test_scratch_lies_apart_from_every_value_that_is_alive() -> None:
    spy = Spy(composites=False)
    bound = prepared().bind(forward(layers=1)[1], planner(spy.kernels))
    calls = bound.plan.program.calls
    assert len(spy.bindings) == len(calls) - 1, "attn_plan is left to the reference"
    order = [index for index, call in enumerate(calls) if call.op.name != "attn_plan@1"]
    by_call = dict(zip(order, (binding for _, binding in spy.bindings), strict=True))
    place: dict[Value, tuple[torch.Tensor, list[int]]] = {}
    for index, binding in by_call.items():
        for name, value in calls[index].args.items():
            if isinstance(value, Value) and not value.base.name:
                place.setdefault(value, (binding.args[name], []))[1].append(index)
    lives: dict[Value, tuple[int, int]] = {}
    for value, (_, uses) in place.items():
        first, last = lives.get(value.base, (min(uses), max(uses)))
        lives[value.base] = min(first, *uses), max(last, *uses)
    checked = 0
    for index, binding in by_call.items():
        for value, (tensor, _) in place.items():
            first, last = lives[value.base]
            if first <= index <= last:
                assert apart(tensor, binding.scratch), (calls[index].site, value)
                checked += 1
    assert checked > 50


def test_what_a_kernel_is_bound_with() -> None:
    spy = Spy()
    memory = prepared()
    prepared_program = forward()[1]
    memory.bind(prepared_program, planner(spy.kernels))
    kinds = dict(spy.bindings)
    linear = kinds["linear@1"]
    assert isinstance(linear.args["w"], Packed) and linear.args["bias"] is None
    assert set(linear.extents) == {"out", "x"} and linear.bounds == BOUNDS
    assert linear.args["x"].shape[0] == linear.extents["x"].at(BOUNDS)
    assert linear.facts["weights"] == "plain" and linear.facts["M"] == BOUNDS.R, "the head has R rows"
    attention = kinds["attn_paged@1"]
    assert isinstance(attention.args["cache"], KVView) and attention.args["cache"].block_size == BLOCK
    assert attention.args["q"].stride() == (4 * 4 + 2 * 2 * 4, 4, 1), "a view of q, k and v side by side"
    assert attention.args["window"] == 0 and attention.args["sinks"] is None
    assert attention.facts["features"] == frozenset() and attention.stream is memory.stream
    assert kinds["gather_rows@1"].args["src"].shape == (BOUNDS.T, 24), "a plain tensor where the table is a value"
    assert isinstance(next(b for n, b in spy.bindings if n == "gather_rows@1").args["src"], Packed)
    assert kinds["rope@1"].args["cos_sin"].shape == (32, 4)


def test_a_function_kernel_gets_what_it_declares_cut_to_the_step() -> None:
    seen: list[dict[str, Any]] = []

    def attend(
        out: Any,
        q: Any,
        cache: Any,
        tables: Any,
        seq_lens: Any,
        cu_q: Any,
        meta: Any,
        scale: float,
        max_q: int,
        max_k: int,
    ) -> None:
        seen.append(dict(locals()))

    bound = prepared().bind(forward(layers=1)[1], planner([Kernel("attn_paged@1", "acme.fn", fn=attend)]))
    for dims in (Dims(T=8, S=3, R=2, max_q=4, max_k=4), Dims(T=3, S=2, R=1, max_q=2, max_k=9)):
        bound.replay(dims)
        given = seen[-1] if seen else {}
        assert given["q"].shape == (dims.T, 4, 4) and given["out"].shape[0] == dims.T
        assert given["tables"].shape == (dims.S, 8) and given["seq_lens"].shape == (dims.S,)
        assert given["cu_q"].shape == (dims.S + 1,) and given["max_q"] == dims.max_q and given["max_k"] == dims.max_k
        assert given["scale"] == 0.5 and "lse" not in given
    assert seen[0]["q"].data_ptr() == seen[1]["q"].data_ptr(), "addresses are fixed when the Program is bound"


def test_a_combination_of_sizes_seen_at_no_bucket_alone_still_runs() -> None:
    ran: list[str] = []

    def counting(name: str) -> Callable[[Binding], Run]:
        return lambda binding: lambda dims: ran.append(name)

    kernels = [
        Kernel("gate_up_act@1", "acme.fused", bind=counting("fused"), where=C(M=between(8, 16))),
        Kernel("linear@1", "acme.short", bind=counting("short"), where=C(max_q=between(1, 2), features={"bias"})),
    ]
    bound = prepared().bind(forward(layers=1)[1], planner(kernels))
    bound.replay(at(T=1, S=1, R=1, max_q=1, max_k=1))
    assert ran == ["short"] * 5
