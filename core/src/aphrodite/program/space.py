"""The memory that a planned Program needs for itself: an arena for its values and its kernels' scratch, and zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aphrodite.ops.kernel import Dims, Workspace
from aphrodite.program.bound import Bound, blame
from aphrodite.program.buffers import ArenaPlan, plan_arena
from aphrodite.program.trace import Call

Choice = tuple[int, int, str]  # calls [start, stop) done by the kernel of that name


@dataclass(frozen=True)
class Space:
    """What a Program needs at its bounds.

    arena         where its values and scratch lie
    scratch       bytes of each piece that needs some
    zeroed_bytes  of one buffer, shared by all kernels that keep theirs zeroed
    """

    arena: ArenaPlan
    scratch: Mapping[Choice, int]
    zeroed_bytes: int

    @property
    def num_bytes(self) -> int:
        """All of it."""
        return self.arena.num_bytes + self.zeroed_bytes


def lay_out(
    calls: Sequence[Call], bounds: Dims, choices: Iterable[Bound], facts: Callable[[Call], dict[str, Any]]
) -> Space:
    """The space of a Program, whichever of these choices its steps will take. KernelError names a kernel that cannot
    say what it needs.

    facts  what a kernel is told of a call at the bounds
    """
    needs = {(bound.start, bound.stop, bound.kernel.provider): _workspace(bound, bounds, facts) for bound in choices}
    scratch = {choice: need.scratch_bytes for choice, need in needs.items() if need.scratch_bytes}
    pieces: dict[tuple[int, int], int] = {}
    for start, stop, provider in needs:
        pieces[start, stop] = max(pieces.get((start, stop), 0), scratch.get((start, stop, provider), 0))
    zeroed = max((need.zeroed_bytes for need in needs.values()), default=0)
    return Space(plan_arena(calls, bounds, pieces), scratch, zeroed)


def _workspace(bound: Bound, bounds: Dims, facts: Callable[[Call], dict[str, Any]]) -> Workspace:
    if bound.kernel.workspace is None:
        return Workspace()
    with blame(bound, "its workspace"):
        space = bound.kernel.workspace(facts(bound.call), bounds)
        if not isinstance(space, Workspace):
            raise TypeError(f"must be a Workspace, got {space!r}")
    return space
