"""Every choice for one Program: composites, kernels and the layouts of its matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from aphrodite.errors import KernelError
from aphrodite.ops.kernel import Dims, Kernel
from aphrodite.platform.layout import PLAIN
from aphrodite.program.bound import Bound, is_attention_plan
from aphrodite.program.layouts import matrices
from aphrodite.program.match import Matches
from aphrodite.program.selection import Selector, listed
from aphrodite.program.space import Space, lay_out
from aphrodite.program.trace import Call, Program


class Plan:
    """Every choice for one Program. `at` gives them for a bucket; `layouts` names the layout of each matrix."""

    def __init__(self, program: Program, matches: Matches, selector: Selector, layouts: Mapping[str, str]) -> None:
        self.program = program
        self.matches = matches
        self.selector = selector
        self.layouts = layouts
        self._by_bucket: dict[Dims, tuple[Bound, ...]] = {}

    @property
    def bounds(self) -> Dims:
        """Largest sizes of a step."""
        return self.selector.buckets.bounds

    def at(self, dims: Dims) -> tuple[Bound, ...]:
        """The whole Program at the bucket of these dims, in order."""
        bucket = self.selector.buckets.of(dims)
        if bucket not in self._by_bucket:
            self._by_bucket[bucket] = self._walk(bucket)
        return self._by_bucket[bucket]

    def choices(self) -> Iterator[Bound]:
        """Everything that may be chosen at some size: for each call and each composite, its kernels at its own buckets.

        More than `at` shows at those: sizes of different calls meet in combinations that neither lists.
        """
        for index, call in enumerate(self.program.calls):
            for stop, one in ((index + 1, call), *((index + n, whole) for n, whole in self.matches.at(index))):
                for kernel in self.selector.winners(one, self.layout_of(one)):
                    yield Bound(index, stop, one, kernel)
            if is_attention_plan(call):
                for dims in self.selector.sizes(call, *self._readers(call)):
                    yield Bound(index, index + 1, call, self._attention_plan(call, dims))

    @cached_property
    def space(self) -> Space:
        """The memory that the Program needs for itself. KernelError names a kernel that cannot say what it needs."""
        return lay_out(self.program.calls, self.bounds, self.choices(), self.facts)

    def layout_of(self, call: Call) -> str:
        """The weight layout of the matrices a call reads; plain when it reads none."""
        names = {self.layouts[ref.name] for ref in matrices(call)}
        assert len(names) <= 1, f"{call.site} reads matrices of different layouts: {names}"
        return names.pop() if names else PLAIN.name

    def facts(self, call: Call) -> dict[str, Any]:
        """What constraints see of a call at the largest sizes."""
        return self.selector.facts(call, self.bounds, self.layout_of(call))

    def within(self, index: int) -> str:
        """The composite that takes a call at every size, with its kernels, or ""."""
        for whole in self.matches.around(index):
            kernels = [self.selector.decide(whole, d, self.layout_of(whole))[0] for d in self.selector.sizes(whole)]
            if None not in kernels:
                names = sorted({kernel.provider for kernel in kernels if kernel is not None})
                return f"{whole.op.name} ({', '.join(names)})"
        return ""

    def check(self) -> None:
        """KernelError if a site has no kernel at some size, or a torch form where the policy forbids it."""
        done: set[object] = set()
        forms: list[str] = []
        for index, call in enumerate(self.program.calls):
            around = self.matches.around(index)
            alike = tuple(self.selector.alike(one) for one in (call, *around))
            if alike in done and not forms:
                continue  # as an earlier call, inside the same composites
            done.add(alike)
            for dims in self.selector.sizes(call, *around):
                if any(self.selector.decide(whole, dims, self.layout_of(whole))[0] for whole in around):
                    continue
                if Bound(index, index + 1, call, self._one(call, dims)).falls_back:
                    forms.append(call.site)
                    break
        if forms and self.selector.rules.fallback == "error":
            raise KernelError(
                f"{len(forms)} of {len(self.program.calls)} sites of the {self.program.name} program have only a "
                f"torch form ({forms[0]} first) and fallback is 'error': install kernels, or allow the fallback",
                subject=forms[0],
            )

    def _walk(self, bucket: Dims) -> tuple[Bound, ...]:
        calls = self.program.calls
        chosen: list[Bound] = []
        index = 0
        while index < len(calls):
            for length, whole in self.matches.at(index):
                kernel, _ = self.selector.decide(whole, bucket, self.layout_of(whole))
                if kernel is not None:
                    chosen.append(Bound(index, index + length, whole, kernel))
                    break
            else:
                chosen.append(Bound(index, index + 1, calls[index], self._one(calls[index], bucket)))
            index = chosen[-1].stop
        return tuple(chosen)

    def _one(self, call: Call, bucket: Dims) -> Kernel:
        if is_attention_plan(call):
            return self._attention_plan(call, bucket)
        kernel, verdicts = self.selector.decide(call, bucket, self.layout_of(call))
        if kernel is None:
            raise KernelError(f"no kernel for {call.op.name} at {call.site}: {listed(verdicts)}", subject=call.site)
        return kernel

    def _readers(self, plan: Call) -> list[Call]:
        """The calls that read what an attn_plan call writes."""
        return [call for call in self.program.calls if call.args.get("meta") is plan.args["meta"] and call is not plan]

    def _attention_plan(self, call: Call, bucket: Dims) -> Kernel:
        """attn_plan is done by the kernel that the winning attention kernels of its cache group name."""
        winners = [self.selector.decide(reader, bucket, PLAIN.name)[0] for reader in self._readers(call)]
        wanted = {kernel.plan for kernel in winners if kernel is not None and kernel.plan}
        if len(wanted) > 1:
            raise KernelError(
                f"attention kernels of one cache group want different plans: {', '.join(sorted(wanted))}",
                subject=call.site,
            )
        return self.selector.named(call, wanted.pop() if wanted else "reference", bucket)
