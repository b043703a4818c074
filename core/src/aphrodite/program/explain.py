"""Why each site runs what it runs: the winner, and every loser's first failing clause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aphrodite.ops.kernel import Dims, Extent
from aphrodite.program.plan import Plan
from aphrodite.program.selection import Verdict
from aphrodite.program.trace import Call


@dataclass(frozen=True)
class Range:
    """One choice, for sizes in a range: `sizes` reads "T <= 64", or "" when the choice depends on none."""

    sizes: str
    verdicts: tuple[Verdict, ...]

    @property
    def winner(self) -> str:
        return next((verdict.provider for verdict in self.verdicts if verdict.chosen), "")


@dataclass(frozen=True)
class SiteReport:
    """A distinct site: places alike in operation, sizes, types and features are one.

    within  the composite that takes these calls, when one does at every size
    """

    program: str
    op: str
    what: str
    sites: tuple[str, ...]
    weights: str
    within: str
    choices: tuple[Range, ...]


def explain(plan: Plan) -> list[SiteReport]:
    """All distinct sites of a planned Program, in order of first appearance."""
    groups: dict[Any, list[tuple[int, Call]]] = {}
    for index, call in enumerate(plan.program.calls):
        for _, whole in plan.matches.at(index):
            groups.setdefault(_key(plan, whole), []).append((index, whole))
        groups.setdefault(_key(plan, call), []).append((index, call))
    return [_report(plan, members) for members in groups.values()]


def count_torch_forms(plan: Plan) -> tuple[int, int]:
    """Sites served by a torch form at the largest sizes, and sites in all."""
    bound = plan.at(plan.bounds)
    return sum(piece.falls_back for piece in bound), len(bound)


def _key(plan: Plan, call: Call) -> Any:
    facts = tuple(sorted(call.facts.items(), key=lambda item: item[0]))
    return call.op.name, facts, plan.layout_of(call)


def _report(plan: Plan, members: list[tuple[int, Call]]) -> SiteReport:
    _, call = members[0]
    alone = plan.program.calls[members[0][0]] is call  # else it is a composite itself
    inside = {plan.within(index) for index, _ in members} if alone else {""}
    return SiteReport(
        plan.program.name,
        call.op.name,
        _what(call),
        tuple(member.site for _, member in members),
        plan.layout_of(call),
        "" if "" in inside else ", ".join(sorted(inside)),
        tuple(_choices(plan, call)),
    )


def _choices(plan: Plan, call: Call) -> list[Range]:
    """One Range for each set of verdicts that agree on who is chosen, in the order of the sizes."""
    sizes = plan.selector.sizes(call)
    varying = [i for i in range(len(Dims._fields)) if len({dims[i] for dims in sizes}) > 1]
    groups: dict[tuple[tuple[str, bool], ...], list[tuple[Dims, tuple[Verdict, ...]]]] = {}
    for dims in sizes:
        verdicts = tuple(plan.selector.decide(call, dims, plan.layout_of(call))[1])
        groups.setdefault(tuple((v.provider, v.chosen) for v in verdicts), []).append((dims, verdicts))
    return [Range(_label([dims for dims, _ in found], sizes, varying), found[-1][1]) for found in groups.values()]


def _label(found: list[Dims], sizes: list[Dims], varying: list[int]) -> str:
    """The buckets of a choice in words: "T <= 16", or for several sizes the box that holds them."""
    parts = []
    box = 1
    for i in varying:
        every = sorted({dims[i] for dims in sizes})
        mine = sorted({dims[i] for dims in found})
        box *= len(mine)
        if mine == every and len(varying) > 1:
            continue
        low = every.index(mine[0])
        above = f"{every[low - 1]} < " if low else ""
        parts.append(f"{above}{Dims._fields[i]} <= {mine[-1]}")
    if len(found) < box:
        parts.append(f"at {len(found)} of {box} combinations")
    return ", ".join(parts)


def _what(call: Call) -> str:
    parts = []
    for name, value in call.facts.items():
        if name in ("A", "X", "features") or isinstance(value, Extent):
            continue
        parts.append(f"{name}={value}")
    if call.facts["features"]:
        parts.append("features=" + "+".join(sorted(call.facts["features"])))
    return " ".join(parts)
