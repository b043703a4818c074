"""One layout for every matrix of a Program, such that all its sites can read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aphrodite.errors import KernelError
from aphrodite.platform.layout import PLAIN
from aphrodite.program.match import Matches
from aphrodite.program.selection import Selector, listed
from aphrodite.program.trace import Call, Program
from aphrodite.program.values import WeightRef


def matrices(call: Call) -> list[WeightRef]:
    """Weights of a call that have a layout."""
    kinds = {arg.name for arg in call.op.schema.args if arg.kind in ("Packed", "Table")}
    return [arg for name, arg in call.args.items() if name in kinds and isinstance(arg, WeightRef)]


def choose_layouts(program: Program, matches: Matches, selector: Selector, layouts: Iterable[str]) -> dict[str, str]:
    """A layout by the matrix's name; of those that serve, the one with the highest tiers. KernelError if none does."""
    layouts = sorted(layouts, key=lambda name: (name != PLAIN.name, name))
    chosen: dict[frozenset[object], str] = {}  # weights that are used alike, as those of alike layers, are one case
    found = {}
    for name, calls in _uses(program, matches).items():
        sites = frozenset(selector.alike(call) for call in calls)
        if sites not in chosen:
            chosen[sites] = _best(name, calls, selector, layouts)
        found[name] = chosen[sites]
    return found


def _uses(program: Program, matches: Matches) -> dict[str, list[Call]]:
    """The calls that read each matrix, and the composites that may do so in their place."""
    uses: dict[str, list[Call]] = {}
    for index, call in enumerate(program.calls):
        for one in (call, *(whole for _, whole in matches.at(index))):
            for ref in matrices(one):
                uses.setdefault(ref.name, []).append(one)
    return uses


def _best(weight: str, calls: Sequence[Call], selector: Selector, layouts: Sequence[str]) -> str:
    best, best_score = "", (-1, -1)
    for layout in layouts:
        score = [0, 0]
        for call in calls:
            tiers = [k.tier if (k := selector.decide(call, d, layout)[0]) else None for d in selector.sizes(call)]
            if None in tiers and call.op.name not in selector.composites:
                break  # some site could not read it
            score[0] += max((tier for tier in tiers if tier is not None), default=0)
            score[1] += sum(tier for tier in tiers if tier is not None)
        else:
            if (score[0], score[1]) > best_score:
                best, best_score = layout, (score[0], score[1])
    if not best:
        raise KernelError(_hopeless(weight, calls[0], selector), subject=weight)
    return best


def _hopeless(weight: str, call: Call, selector: Selector) -> str:
    _, verdicts = selector.decide(call, selector.sizes(call)[-1], PLAIN.name)
    return f"no weight layout of {weight} serves all its sites; at {call.site}: {listed(verdicts)}"
