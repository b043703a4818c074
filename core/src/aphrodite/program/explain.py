"""Why each site runs what it runs: the winner, and every loser's first failing clause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aphrodite.ops.kernel import Dims, Extent
from aphrodite.program.planner import Plan, Verdict
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
        for _, whole in plan.matches_at(index):
            groups.setdefault(_key(plan, whole), []).append((index, whole))
        groups.setdefault(_key(plan, call), []).append((index, call))
    return [_report(plan, members) for members in groups.values()]


def count_torch_forms(plan: Plan) -> tuple[int, int]:
    """Sites served by a torch form at the largest sizes, and sites in all."""
    bound = plan.at(plan.planner.bounds)
    return sum(piece.falls_back for piece in bound), len(bound)


def _key(plan: Plan, call: Call) -> Any:
    facts = tuple(sorted(call.facts.items(), key=lambda item: item[0]))
    return call.op.name, facts, plan.layout_of(call)


def _report(plan: Plan, members: list[tuple[int, Call]]) -> SiteReport:
    _, call = members[0]
    layout = plan.layout_of(call)
    sizes = plan.planner.sizes(call)
    varying = [name for i, name in enumerate(Dims._fields) if len({dims[i] for dims in sizes}) > 1]
    choices: list[Range] = []
    for dims in sizes:
        _, verdicts = plan.planner.decide(call, dims, layout)
        label = ", ".join(f"{name} <= {getattr(dims, name)}" for name in varying)
        made = Range(label, tuple(verdicts))
        if choices and len(varying) == 1 and choices[-1].winner == made.winner:
            choices[-1] = made  # neighbours with one winner are one range, up to the larger bucket
        else:
            choices.append(made)
    return SiteReport(
        plan.program.name,
        call.op.name,
        _what(call),
        tuple(member.site for _, member in members),
        layout,
        _within(plan, members),
        tuple(choices),
    )


def _within(plan: Plan, members: list[tuple[int, Call]]) -> str:
    """The composite that takes every one of these calls at every size, or ""."""
    taken: set[str] = set()
    for dims in plan.buckets():
        cover = {i: piece for piece in plan.at(dims) for i in range(piece.start, piece.stop)}
        for index, call in members:
            piece = cover[index]
            if piece.call is call or piece.call.op.name == call.op.name:
                return ""
            taken.add(f"{piece.call.op.name} ({piece.kernel.provider})")
    return ", ".join(sorted(taken))


def _what(call: Call) -> str:
    parts = []
    for name, value in call.facts.items():
        if name in ("A", "X", "features") or isinstance(value, Extent):
            continue
        parts.append(f"{name}={value}")
    if call.facts["features"]:
        parts.append("features=" + "+".join(sorted(call.facts["features"])))
    return " ".join(parts)
