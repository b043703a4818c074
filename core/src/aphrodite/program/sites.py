"""Distinct sites: calls alike in operation, sizes, types and features are one, and are decided once for each bucket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aphrodite.ops.kernel import Dims, Extent, Kernel
from aphrodite.program.buckets import Buckets
from aphrodite.program.trace import Call


@dataclass(eq=False)
class Site:
    """What the places share.

    mentioned  the varying sizes on which its choice may depend, by their index in Dims
    decided    (weight layout, values of the mentioned sizes) -> the choice there
    winners    weight layout -> every kernel chosen at some size
    """

    mentioned: tuple[int, ...]
    decided: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    winners: dict[str, tuple[Kernel, ...]] = field(default_factory=dict)

    def key(self, dims: Dims, weights: str) -> tuple[Any, ...]:
        """What a choice is remembered under."""
        return (weights, *(dims[i] for i in self.mentioned))


class Sites:
    """The sites of all calls that a selector meets.

    kernels  candidates by operation name; their constraints say which sizes matter
    """

    def __init__(self, kernels: Mapping[str, Sequence[Kernel]], buckets: Buckets) -> None:
        self._kernels = kernels
        self._buckets = buckets
        self._by_facts: dict[Any, Site] = {}
        self._by_call: dict[int, tuple[Call, Site]] = {}

    def of(self, call: Call) -> Site:
        """The site of a call."""
        known = self._by_call.get(id(call))
        if known is None:
            facts = (call.op.name, *sorted(call.facts.items(), key=lambda item: item[0]))
            site = self._by_facts.get(facts)
            if site is None:
                site = self._by_facts[facts] = Site(self._mentioned(call))
            known = self._by_call[id(call)] = (call, site)  # the call is kept, so that its id stays its own
        return known[1]

    def sizes(self, calls: Iterable[Call]) -> list[Dims]:
        """Every bucket at which some choice among these calls may differ; sizes that matter to none at their bound."""
        return self._buckets.across({i for call in calls for i in self.of(call).mentioned})

    def _mentioned(self, call: Call) -> tuple[int, ...]:
        found: set[str] = set()
        for kernel in self._kernels.get(call.op.name, ()):
            for name in kernel.where.reads(call.facts):
                extent = call.facts.get(name)
                if isinstance(extent, Extent):
                    found.add(extent.symbol)
                elif name in ("max_q", "max_k"):
                    found.add(name)
        return tuple(i for i, name in enumerate(Dims._fields) if name in found)
