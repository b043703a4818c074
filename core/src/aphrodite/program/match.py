"""Finding composites: does a run of calls do what a composite's body does?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aphrodite.ops.composite import Composite
from aphrodite.ops.op import Op
from aphrodite.program.buffers import lifetimes
from aphrodite.program.trace import Call, describe
from aphrodite.program.values import Argument, Value


@dataclass(frozen=True, eq=False)
class _Hole:
    """A place in a pattern: an argument of the composite by name, or a value that its body keeps to itself."""

    name: str
    inner: bool = False


@dataclass(frozen=True)
class _Step:
    op: Op
    args: Mapping[str, Any]


@dataclass
class _PatternRecorder:
    """The Recorder that turns a composite's body into a pattern."""

    steps: list[_Step] = field(default_factory=list)

    def call(self, op: Op, site: str, **args: Any) -> Any:
        complete = dict.fromkeys(a.name for a in op.schema.args) | {a.name: a.default for a in op.schema.attrs} | args
        made = []
        for arg in op.schema.args:
            if arg.written and not arg.optional and complete[arg.name] is None:
                complete[arg.name] = _Hole(f"{len(self.steps)}.{arg.name}", inner=True)
                made.append(complete[arg.name])
        self.steps.append(_Step(op, complete))
        return made[0] if len(made) == 1 else tuple(made)


class Pattern:
    """A composite's body as a sequence of calls with holes."""

    def __init__(self, composite: Composite) -> None:
        recorder = _PatternRecorder()
        schema = composite.schema
        composite.body(recorder, **{name: _Hole(name) for name in schema.by_name})
        self.composite = composite
        self.steps = tuple(recorder.steps)

    def match(self, calls: Sequence[Call], start: int, last_use: Mapping[Value, int]) -> Call | None:
        """The one call that stands for calls[start : start + length], or None.

        last_use  last call that touches each base value of the arena
        """
        run = calls[start : start + len(self.steps)]
        if len(run) < len(self.steps):
            return None
        found: dict[_Hole, Argument] = {}
        for step, call in zip(self.steps, run, strict=True):
            if step.op.name != call.op.name or not all(
                _agree(step.args[name], given, found) for name, given in call.args.items()
            ):
                return None
        end = start + len(self.steps) - 1
        for hole, given in found.items():
            if hole.inner and not _private(given, run, end, last_use):
                return None
        args = {hole.name: given for hole, given in found.items() if not hole.inner}
        if self._share_memory(args):
            return None
        return self._call(run, args)

    def _share_memory(self, args: Mapping[str, Argument]) -> bool:
        """Whether something written is also another argument: a kernel may count on their being apart."""
        values = [(name, given) for name, given in args.items() if isinstance(given, Value)]
        written = {arg.name for arg in self.composite.schema.args if arg.written}
        return any(
            (a in written or b in written) and x.overlaps(y) for (a, x), (b, y) in itertools.combinations(values, 2)
        )

    def _call(self, run: Sequence[Call], args: Mapping[str, Argument]) -> Call:
        """The composite as one call, its facts under the composite's own names."""
        schema = self.composite.schema
        op = Op(self.composite.name, schema, _no_reference, self.composite.doc)
        return Call(op, run[0].site, args, describe(schema, args))


class Matches:
    """Where composites could stand in a Program.

    patterns  of those that could, in the order they are tried
    """

    def __init__(self, patterns: Sequence[Pattern], calls: Sequence[Call]) -> None:
        last_use = {value: last for value, (_, last) in lifetimes(calls).items()}
        self._at: list[list[tuple[int, Call]]] = [[] for _ in calls]
        self._around: list[list[Call]] = [[] for _ in calls]
        for start in range(len(calls)):
            for pattern in patterns:
                whole = pattern.match(calls, start, last_use)
                if whole is not None:
                    self._at[start].append((len(pattern.steps), whole))
                    for index in range(start, start + len(pattern.steps)):
                        self._around[index].append(whole)

    def at(self, index: int) -> Sequence[tuple[int, Call]]:
        """Composites that could begin at a call: (calls covered, the composite's call)."""
        return self._at[index]

    def around(self, index: int) -> Sequence[Call]:
        """Composites that a call could be part of."""
        return self._around[index]


def _no_reference(*args: object) -> None:
    raise AssertionError("a composite's reference is its run of calls")


def _agree(expected: Any, given: Argument, found: dict[_Hole, Argument]) -> bool:
    if not isinstance(expected, _Hole):
        return bool(expected == given)
    if expected not in found:
        found[expected] = given
        return True
    return found[expected] is given or (not isinstance(given, Value) and found[expected] == given)


def _private(value: Argument, run: Sequence[Call], end: int, last_use: Mapping[Value, int]) -> bool:
    """Whether a value lives inside the run alone."""
    return isinstance(value, Value) and value.base in last_use and last_use[value.base] <= end
