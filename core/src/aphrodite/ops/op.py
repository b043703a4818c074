"""An operation: its schema, its meaning in torch, examples, and how far a kernel may stray."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aphrodite.ops.schema import Schema, parse

Form = Callable[..., None]


@dataclass(frozen=True)
class Example:
    """A legal call: arguments by name (torch tensors, structures, attributes)."""

    label: str
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Tolerance:
    """err(kernel vs float64) <= 2 * err(reference in the same type vs float64) + c * eps(dtype) * scale."""

    c: float = 4.0


@dataclass(frozen=True)
class Op:
    """One operation of the contract.

    name        with its version: "rms_norm@1"; a change of meaning is a new version
    schema      see ops/schema.py
    reference   the specification: readable torch, exact in float64, may read the host
    portable    static shapes, no host read, traceable; None where the reference already is so
    examples    (dtype, seed) -> legal calls, drawn at random from the seed
    doc         one line
    aliases     pairs of arguments that may be the same memory
    reads_host  the portable form reads sizes on the host too, because a static one would multiply or copy what nobody
                wants; steps that it serves are not captured
    exact       its torch forms move numbers about, or round each result of additions and products once: a row's bits
                depend on nothing but its own, on every device. Others promise nothing: sums are ordered, and functions
                such as exp rounded, by how many numbers there are
    """

    name: str
    schema: Schema
    reference: Form
    doc: str
    portable: Form | None = None
    examples: Callable[[str, int], Iterator[Example]] | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    aliases: tuple[tuple[str, str], ...] = ()
    reads_host: bool = False
    exact: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """Arguments that the operation writes."""
        return tuple(arg.name for arg in self.schema.args if arg.written)


def op(
    name: str,
    schema: str,
    *,
    portable: Form | None = None,
    examples: Callable[[str, int], Iterator[Example]] | None = None,
    tolerance: Tolerance | None = None,
    aliases: tuple[tuple[str, str], ...] = (),
    reads_host: bool = False,
    exact: bool = False,
) -> Callable[[Form], Op]:
    """Decorator: the function below is the reference of operation `name`. ValueError if it and the schema disagree."""

    def define(reference: Form) -> Op:
        parsed = parse(schema)
        for form in (reference, portable):
            if form is not None and (reason := unknown_arguments(form, parsed)):
                raise ValueError(f"{name}: {form.__name__} {reason}")
        doc = (inspect.getdoc(reference) or "").split("\n")[0]
        return Op(
            name, parsed, reference, doc, portable, examples, tolerance or Tolerance(), aliases, reads_host, exact
        )

    return define


HOST_BOUNDS = ("max_q", "max_k")  # a form or kernel function may ask for these beside the schema's arguments


def declared(form: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the arguments a function takes; that is all it will be given."""
    return tuple(inspect.signature(form).parameters)


def unknown_arguments(form: Callable[..., Any], schema: Schema) -> str | None:
    """Why `form` cannot be called for this schema, or None: arguments the schema lacks, or required ones it omits."""
    try:
        names = set(declared(form))
    except (TypeError, ValueError):
        return "has no signature that can be read"
    if extra := sorted(names - set(schema.by_name) - set(HOST_BOUNDS)):
        return f"takes {', '.join(extra)}, which {schema.text!r} does not have"
    required = [a.name for a in schema.args if not a.optional] + [a.name for a in schema.attrs if a.required]
    if missing := [name for name in required if name not in names]:
        return f"does not take {', '.join(missing)}, which {schema.text!r} requires"
    return None
