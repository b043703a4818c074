"""The memory that a planned Program needs for itself: an arena for its values and its kernels' scratch, and zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aphrodite.errors import AphroditeError, KernelError
from aphrodite.ops.kernel import Workspace
from aphrodite.program.buffers import ArenaPlan, plan_arena

if TYPE_CHECKING:
    from aphrodite.program.planner import Bound, Plan

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


def lay_out(plan: Plan) -> Space:
    """The space of a plan, whichever kernels its steps will take. KernelError names a kernel that cannot say."""
    needs = {(bound.start, bound.stop, bound.kernel.provider): _workspace(plan, bound) for bound in plan.choices()}
    scratch = {choice: need.scratch_bytes for choice, need in needs.items() if need.scratch_bytes}
    pieces: dict[tuple[int, int], int] = {}
    for start, stop, provider in needs:
        pieces[start, stop] = max(pieces.get((start, stop), 0), scratch.get((start, stop, provider), 0))
    zeroed = max((need.zeroed_bytes for need in needs.values()), default=0)
    return Space(plan_arena(plan.program.calls, plan.planner.bounds, pieces), scratch, zeroed)


@contextmanager
def blame(bound: Bound, what: str) -> Iterator[None]:
    """Whatever a kernel's own code raises is a KernelError that names the kernel and the place."""
    try:
        yield
    except AphroditeError:
        raise
    except Exception as error:
        where = f"{bound.kernel.provider} at {bound.call.site}"
        raise KernelError(f"{where}: {what} raised {type(error).__name__}: {error}", subject=bound.call.site) from error


def _workspace(plan: Plan, bound: Bound) -> Workspace:
    if bound.kernel.workspace is None:
        return Workspace()
    bounds = plan.planner.bounds
    with blame(bound, "its workspace"):
        space = bound.kernel.workspace(plan.planner.facts(bound.call, bounds, plan.layout_of(bound.call)), bounds)
        if not isinstance(space, Workspace):
            raise TypeError(f"must be a Workspace, got {space!r}")
    return space
