"""A composite: a named run of calls that one kernel may serve whole. The run is its own reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aphrodite.ops.op import Op
from aphrodite.ops.schema import Schema, parse


class Recorder(Protocol):
    """What a composite's body is given in place of the tracer: `call` records one operation."""

    def call(self, op: Op, site: str, **args: Any) -> Any:
        """Record a call; returns the outputs that were not passed in, one alone or a tuple."""
        ...


@dataclass(frozen=True)
class Composite:
    """name and schema as of an operation; `body(recorder, **arguments)` records the calls, in Program order.

    A run in a Program matches when its calls are those of the body, arguments agree, and nothing outside the run
    reads what the body keeps to itself.
    """

    name: str
    schema: Schema
    body: Callable[..., None]
    doc: str


def composite(name: str, schema: str) -> Callable[[Callable[..., None]], Composite]:
    """Decorator: the function below is the body of composite `name`."""

    def define(body: Callable[..., None]) -> Composite:
        return Composite(name, parse(schema), body, (inspect.getdoc(body) or "").split("\n")[0])

    return define
