"""The signature of an operation, written as text and read once.

    out[T,H] A!, x[T,H] A, w[H] A, eps: float, offset: int = 0

`name[dims] type` is a tensor; `!` behind it says that the operation writes it, `?` that it may be absent. Types are
those of platform/dtypes.py or a variable: A and X each stand for an activation type, the same everywhere in one call.
`name[dims] Kind type` is a structure: `KVView[Hk,D]`, `Packed[N,K]` a weight in its layout, `Table[M,H]` a Packed or a
plain tensor, `Rows` the row state, `Modules` code of another library. `name: type [= default]` is an attribute, fixed
when the model is built.
Optional tensors and attributes that differ from their default are *features*: a kernel must name those it serves.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

STRUCTURES = ("KVView", "Packed", "Table", "Rows", "Modules")
VARIABLES = ("A", "X")
_ATTRIBUTES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}

_TENSOR = re.compile(r"^(\w+)\[([^\]]*)\] (?:(KVView|Packed|Table) )?(\w+)(!?)(\??)$")
_WHOLE = re.compile(r"^(\w+) (Rows|Modules)(!?)$")
_ATTRIBUTE = re.compile(r"^(\w+): (int|float|bool|str)(?: = (.+))?$")


@dataclass(frozen=True)
class Arg:
    """A tensor or structure argument. kind is "tensor" or one of STRUCTURES."""

    name: str
    kind: str
    dims: tuple[str, ...]
    dtype: str
    written: bool
    optional: bool


@dataclass(frozen=True)
class Attr:
    """An attribute. `required` when it has no default."""

    name: str
    type: type
    default: Any
    required: bool


@dataclass(frozen=True)
class Schema:
    """An operation's arguments in order: tensors and structures first, then attributes."""

    text: str
    args: tuple[Arg, ...]
    attrs: tuple[Attr, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Arg | Attr]:
        return {**{arg.name: arg for arg in self.args}, **{attr.name: attr for attr in self.attrs}}

    @cached_property
    def dims(self) -> frozenset[str]:
        """Names of all sizes that occur."""
        return frozenset(dim for arg in self.args for dim in arg.dims)

    @cached_property
    def features(self) -> frozenset[str]:
        """Names a kernel must declare before it may be given them."""
        optional = [arg.name for arg in self.args if arg.optional]
        return frozenset(optional + [attr.name for attr in self.attrs if not attr.required])


def parse(text: str) -> Schema:
    """Read a schema. ValueError names the part that does not follow the grammar above."""
    args: list[Arg] = []
    attrs: list[Attr] = []
    for part in re.split(r",\s+(?=\w+[\[: ])", " ".join(text.split())):
        if found := _TENSOR.match(part):
            name, dims, structure, dtype, written, optional = found.groups()
            sizes = tuple(dim.strip() for dim in dims.split(",") if dim.strip())
            args.append(Arg(name, structure or "tensor", sizes, dtype, bool(written), bool(optional)))
        elif found := _WHOLE.match(part):
            args.append(Arg(found[1], found[2], (), "i32", bool(found[3]), False))
        elif found := _ATTRIBUTE.match(part):
            name, kind, default = found.groups()
            value = None if default is None else ast.literal_eval(default)
            attrs.append(Attr(name, _ATTRIBUTES[kind], value, default is None))
        else:
            raise ValueError(f"cannot read {part!r} in the schema {text!r}")
    schema = Schema(text, tuple(args), tuple(attrs))
    if len(schema.by_name) != len(args) + len(attrs):
        raise ValueError(f"a name stands twice in the schema {text!r}")
    return schema
