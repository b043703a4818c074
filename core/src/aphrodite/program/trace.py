"""Recording: a network is run once on symbols, and every operation it calls becomes a Call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aphrodite.errors import ShapeError
from aphrodite.ops.kernel import Extent
from aphrodite.ops.op import Op
from aphrodite.ops.schema import Arg, Schema
from aphrodite.platform.dtypes import ACTIVATION
from aphrodite.program.values import (
    Argument,
    ConstantRef,
    KVRef,
    ModulesRef,
    RowsRef,
    Size,
    Value,
    WeightRef,
    new_value,
)


@dataclass(frozen=True)
class Call:
    """One operation at one place. `args` holds every argument of the schema, absent ones as None.

    facts  the sizes, types, attributes and features that constraints are checked against; sizes may be Extents
    """

    op: Op
    site: str
    args: Mapping[str, Argument]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Program:
    """An ordered list of calls, with the values that the caller provides (inputs) and reads (outputs) by name."""

    name: str
    calls: tuple[Call, ...]
    externals: Mapping[str, Value]


@dataclass
class Tracer:
    """Records a Program. Layers call `call`; `finish` freezes it."""

    name: str
    calls: list[Call] = field(default_factory=list)
    externals: dict[str, Value] = field(default_factory=dict)

    def external(self, name: str, shape: tuple[Size, ...], dtype: str) -> Value:
        """A named input or output, whose memory the caller provides when the Program is bound."""
        assert name not in self.externals, name
        value = new_value(shape, dtype, name)
        self.externals[name] = value
        return value

    def call(
        self,
        op: Op,
        site: str,
        *,
        sizes: Mapping[str, Size] | None = None,
        dtypes: Mapping[str, str] | None = None,
        **args: Argument,
    ) -> Any:
        """Record a call of `op` at `site` (a path such as "layers.3.mlp.down").

        Written arguments that are not passed become new values, whose sizes and types must follow from the others or
        be given in `sizes` and `dtypes`. Returns the new values: one alone, several as a tuple in the schema's order.
        Raises ShapeError naming the two numbers that disagree.
        """
        bound = _Bindings(f"{op.name} at {site}", dict(sizes or {}), dict(dtypes or {}))
        complete: dict[str, Argument] = {}
        fresh: list[Arg] = []
        for attr in op.schema.attrs:
            if attr.required and attr.name not in args:
                raise ShapeError(f"{bound.where}: attribute {attr.name} is missing", subject=site)
            complete[attr.name] = args.pop(attr.name, attr.default)
        for item in op.schema.args:
            given = args.pop(item.name, None)
            complete[item.name] = given
            if given is not None:
                bound.take(item, given)
            elif item.written and not item.optional:
                fresh.append(item)
            elif not item.optional:
                raise ShapeError(f"{bound.where}: argument {item.name} is missing", subject=site)
        if args:
            raise ShapeError(f"{bound.where} has no argument {', '.join(args)}", subject=site)
        made = tuple(bound.make(item) for item in fresh)
        for item, value in zip(fresh, made, strict=True):
            complete[item.name] = value
        self.calls.append(Call(op, site, complete, describe(op.schema, complete, bound)))
        return made[0] if len(made) == 1 else made

    def finish(self) -> Program:
        """The Program as recorded."""
        return Program(self.name, tuple(self.calls), dict(self.externals))


@dataclass
class _Bindings:
    """What one call binds the schema's size and type variables to."""

    where: str
    sizes: dict[str, Size]
    dtypes: dict[str, str]

    def take(self, arg: Arg, given: Argument) -> None:
        shape, dtype = _shape_of(arg, given)
        if len(shape) != len(arg.dims):
            raise ShapeError(
                f"{self.where}: {arg.name} has {len(shape)} axes, expected [{', '.join(arg.dims)}]",
                subject=arg.name,
            )
        for dim, size in zip(arg.dims, shape, strict=True):
            known = self.resolve(dim)
            if known is None:
                self.sizes[dim] = size
            elif known != size:
                raise ShapeError(f"{self.where}: {arg.name} has {dim}={size}, others {known}", subject=arg.name)
        if arg.dtype in ("A", "X"):
            known_dtype = self.dtypes.setdefault(arg.dtype, dtype)
            if known_dtype != dtype or dtype not in (*ACTIVATION, "f64"):
                raise ShapeError(f"{self.where}: {arg.name} is {dtype}, others {known_dtype}", subject=arg.name)
        elif arg.dtype != dtype:
            raise ShapeError(f"{self.where}: {arg.name} is {dtype}, expected {arg.dtype}", subject=arg.name)

    def make(self, arg: Arg) -> Value:
        sizes = []
        for dim in arg.dims:
            size = self.resolve(dim)
            if size is None:
                raise ShapeError(f"{self.where}: the size {dim} of {arg.name} follows from nothing", subject=arg.name)
            sizes.append(size)
        dtype = self.dtypes.get(arg.dtype, arg.dtype)
        if dtype == "X":  # an output type of its own that nobody asked for: the activation type
            dtype = self.dtypes.setdefault("X", self.dtypes["A"])
        return new_value(tuple(sizes), dtype)

    def resolve(self, dim: str) -> Size | None:
        """A size by its name, where "S+1" is one more than S."""
        if dim in self.sizes:
            return self.sizes[dim]
        name, plus, count = dim.partition("+")
        size = self.sizes.get(name) if plus else None
        if size is None:
            return None
        return size + int(count) if isinstance(size, int) else Extent(size.symbol, size.times, size.plus + int(count))


def _shape_of(arg: Arg, given: Argument) -> tuple[tuple[Size, ...], str]:
    if isinstance(given, KVRef):
        return (given.num_heads, given.head_dim, given.value_dim), given.dtype
    if isinstance(given, (RowsRef, ModulesRef)):
        return (), "i32"
    assert isinstance(given, (Value, WeightRef, ConstantRef)), f"{arg.name} cannot be {given!r}"
    return given.shape, given.dtype


def describe(schema: Schema, args: Mapping[str, Argument], bound: _Bindings | None = None) -> dict[str, Any]:
    """The facts of a call: sizes, types, attributes and features as constraints will see them.

    Raises ShapeError if the arguments disagree with the schema.
    """
    if bound is None:
        bound = _Bindings(schema.text, {}, {})
        for arg in schema.args:
            if (given := args[arg.name]) is not None:
                bound.take(arg, given)
    facts: dict[str, Any] = {dim: size for dim, size in bound.sizes.items() if "+" not in dim}
    facts.update(bound.dtypes)
    if "A" in bound.dtypes:
        facts["dtype"] = bound.dtypes["A"]
    features = {arg.name for arg in schema.args if arg.optional and args[arg.name] is not None}
    for attr in schema.attrs:
        facts[attr.name] = args[attr.name]
        if not attr.required and args[attr.name] != attr.default:
            features.add(attr.name)
    facts["features"] = frozenset(features)
    return facts
