"""Choosing a kernel for every call and a layout for every matrix: once, at build."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aphrodite.ops.composite import Composite
from aphrodite.ops.kernel import Dims, Kernel
from aphrodite.platform.layout import WeightLayout
from aphrodite.platform.spi import Limits
from aphrodite.program.buckets import Buckets
from aphrodite.program.layouts import choose_layouts
from aphrodite.program.match import Matches, Pattern
from aphrodite.program.plan import Plan
from aphrodite.program.rules import Rules
from aphrodite.program.selection import Selector
from aphrodite.program.trace import Program


class Planner:
    """Plans the Programs of one device.

    kernels         registered for the device
    composites      runs of calls that a kernel may do in one
    weight_layouts  by name, plain among them
    arch, kv_layout facts of the device and of its cache
    bounds          largest sizes of a step
    """

    def __init__(
        self,
        *,
        kernels: Iterable[Kernel],
        composites: Iterable[Composite],
        weight_layouts: Mapping[str, WeightLayout],
        arch: str,
        kv_layout: str,
        limits: Limits,
        bounds: Dims,
        rules: Rules | None = None,
    ) -> None:
        self._rules = rules or Rules()
        self._weight_layouts = weight_layouts
        self._kernels: dict[str, list[Kernel]] = {}
        for kernel in kernels:
            self._kernels.setdefault(kernel.op, []).append(kernel)
        patterns = [Pattern(c) for c in composites if c.name in self._kernels and self._rules.of(c.name) != ["none"]]
        self._patterns = sorted(patterns, key=lambda p: (-len(p.steps), p.composite.name))
        self.selector = Selector(
            self._kernels,
            frozenset(pattern.composite.name for pattern in patterns),
            self._rules,
            Buckets(bounds, limits.token_buckets),
            arch=arch,
            kv_layout=kv_layout,
        )

    def plan(self, program: Program) -> Plan:
        """Choose for every call, composite and weight. KernelError if a rule or the fallback policy is broken."""
        self._rules.check(self._kernels)
        matches = Matches(self._patterns, program.calls)
        layouts = choose_layouts(program, matches, self.selector, self._weight_layouts)
        plan = Plan(program, matches, self.selector, layouts)
        plan.check()
        return plan
