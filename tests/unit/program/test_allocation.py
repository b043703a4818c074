"""A step allocates nothing: counted in Python's own blocks, and in torch's storages."""

from __future__ import annotations

import gc
import itertools
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aphrodite.ops.constraints import C
from aphrodite.ops.kernel import Dims, Flag, Kernel
from aphrodite.ops.table import COMPOSITES, OPS
from aphrodite.platform.spi import Stream
from aphrodite.program.replay import BoundProgram
from aphrodite.runner.programs import record_updates
from aphrodite.sampling.program import Variant, record
from tests.unit.program.parts import Memory, cpu, fill, forward, planner, stub

STEPS = (
    Dims(T=16, S=4, R=4, max_q=8, max_k=20),
    Dims(T=4, S=4, R=4, max_q=1, max_k=21),
    Dims(T=3, S=3, R=3, U=9, max_q=1, max_k=22),
)


def stubs() -> list[Kernel]:
    """Kernels that do nothing, for every operation."""
    names = {**OPS, **COMPOSITES}
    kernels = [
        stub(n, "acme.nothing", where=C(features=x.schema.features), plan="acme.nothing") for n, x in names.items()
    ]
    return [replace(k, plan=k.plan if k.op.startswith("attn_paged") else None) for k in kernels]


def stubbed(kernels: list[Kernel]) -> list[BoundProgram]:
    memory = Memory()
    variants = [Variant(random, n) for random in (False, True) for n in (-1, 20)]
    sampling = [record(variant, vocab_size=50, dtype="f32") for variant in (*variants, Variant.fullest())]
    return [memory.bind(program, planner(kernels)) for program in (forward()[1], record_updates(), *sampling)]


@contextmanager
def quiet() -> Iterator[None]:
    """No collector in between: what is counted is what the loop did."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def growth(step: Callable[[Dims], None], times: int = 1000) -> tuple[int, int]:
    """Blocks of Python's allocator and bytes of tracemalloc that `times` steps leave behind."""
    with quiet():
        for dims in STEPS * 1000:  # Python keeps up to 2,000 freed tuples of each length for itself
            step(dims)
        before = sys.getallocatedblocks()
        for dims in itertools.islice(itertools.cycle(STEPS), times):
            step(dims)
        blocks = sys.getallocatedblocks() - before
        tracemalloc.start()
        try:
            for dims in STEPS:
                step(dims)
            start, _ = tracemalloc.get_traced_memory()
            for dims in itertools.islice(itertools.cycle(STEPS), times):
                step(dims)
            stop, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return blocks, stop - start


def test_a_thousand_replays_leave_pythons_memory_flat() -> None:
    programs = stubbed(stubs())
    assert all(bound.kernel.provider == "acme.nothing" for p in programs for bound in p.plan.at(STEPS[0]))

    def step(dims: Dims) -> None:
        for program in programs:
            program.replay(dims)

    blocks, num_bytes = growth(step)
    assert abs(blocks) < 20, f"{blocks} blocks after 1,000 steps of {len(programs)} programs"
    assert abs(num_bytes) < 2000, f"{num_bytes} bytes after 1,000 steps"


def test_the_count_sees_a_single_block_a_step() -> None:
    kept: list[object] = []
    blocks, num_bytes = growth(lambda dims: kept.append(object()))
    assert blocks >= 1000 and num_bytes >= 1000 * 16


# ---- storages -------------------------------------------------------------------------------------------------------


class Watched:
    """The Forms of the default platform, which also say which function runs."""

    def __init__(self) -> None:
        self.running: list[Any] = []

    def adapt(self, form: Callable[..., None], stream: Stream, name: str) -> Callable[..., None]:
        def run(*args: object, **kwargs: object) -> None:
            self.running.append(form)
            try:
                form(*args, **kwargs)
            finally:
                self.running.pop()

        return run


class Storages(TorchDispatchMode):
    """Every call of torch that brings a new storage into the world, with the kernel function it came from."""

    def __init__(self, forms: Watched) -> None:
        super().__init__()
        self._forms = forms
        self.new: list[tuple[Any, str]] = []
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        if any(x.untyped_storage()._cdata not in known for x in made):
            self.new.append((self._forms.running[-1] if self._forms.running else None, str(func)))
        return out


def in_place_add(res: Any, x: Any) -> None:
    res.add_(x)


def in_place_rope(q: Any, k: Any, pos: Any, cos_sin: Any, style: str) -> None:
    q.mul_(0.5)
    k.mul_(0.5)


def greedy_rope(q: Any, k: Any, pos: Any, cos_sin: Any, style: str) -> None:
    q.copy_(q * 0.5)


def replayed(kernels: list[Kernel]) -> tuple[Storages, dict[Any, Kernel]]:
    """A decoder's steps under the mode, after a first round that fills the caches of cut arguments."""
    forms = Watched()
    memory = Memory(platform=replace(cpu(), forms=forms))
    for row in range(4):
        memory.start(row, [row + 1] * 8, [2 * row + 1, 2 * row + 2])
    bound = memory.bind(forward()[1], planner(kernels))
    fill(bound, seq_rows=[0, 1, 2, 3], num_new=[1] * 4, num_logits=[1] * 4, draws=[1] * 4)
    bound.replay(STEPS[1])
    with Storages(forms) as storages:
        for _ in range(3):
            bound.replay(STEPS[1])
    return storages, {piece.kernel.fn: piece.kernel for piece in bound.plan.at(STEPS[1])}


FRUGAL = [Kernel("add@1", "acme.add", fn=in_place_add), Kernel("rope@1", "acme.rope", fn=in_place_rope)]


def test_nothing_outside_a_kernel_allocates_and_kernels_keep_their_word() -> None:
    storages, kernels = replayed(FRUGAL)
    assert {in_place_add, in_place_rope} <= set(kernels) and storages.calls > 100
    assert any(form is not None for form, _ in storages.new), "the torch forms do allocate, as they declare"
    for form, name in storages.new:
        assert form is not None, f"{name} allocates outside every kernel"
        assert kernels[form].flags & Flag.ALLOCATES, f"{name} allocates in {kernels[form].provider}"


def test_a_kernel_that_breaks_its_word_is_seen() -> None:
    storages, _ = replayed([Kernel("rope@1", "acme.rope", fn=greedy_rope)])
    assert any(form is greedy_rope for form, _ in storages.new)


def test_every_call_of_torch_in_a_replay_belongs_to_a_kernel() -> None:
    class Outside(Storages):
        names: list[str] = []  # noqa: RUF012

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not self._forms.running:
                self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    forms = Watched()
    memory = Memory(platform=replace(cpu(), forms=forms))
    bound = memory.bind(forward()[1], planner())
    fill(bound, seq_rows=[-1] * 4)
    bound.replay(STEPS[1])
    with Outside(forms) as mode:
        bound.replay(STEPS[1])
    assert mode.names == []
    with Outside(forms) as mode:
        bound.replay(STEPS[0])
    assert set(mode.names) <= {"aten.slice.Tensor"}, "sizes met for the first time are cut, which is a view"
