"""What a plugin registers for an operation: how to bind it, where it works, what it promises."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aphrodite.ops.constraints import C, Facts

SPECIALISED, NATIVE, PORTABLE, TORCH = 300, 200, 100, 0


class Flag(enum.Flag):
    """Promises of a kernel; each is tested by the conformance kit, none is assumed."""

    NONE = 0
    ALLOCATES = enum.auto()  # takes device memory while it runs
    CAPTURE_SAFE = enum.auto()  # geometry from bounds, all varying data in device memory
    RUN_STABLE = enum.auto()  # the same bits on repeat
    BATCH_INVARIANT = enum.auto()  # a row's bits do not depend on other rows
    SHAPE_STABLE = enum.auto()  # the same under padding and chunking


INVARIANT = Flag.RUN_STABLE | Flag.BATCH_INVARIANT | Flag.SHAPE_STABLE  # a row's bits depend on its own numbers alone


class Dims(NamedTuple):
    """What varies from step to step, all that a bound kernel is given.

    T tokens, S sequences, R logit rows, U updates of row state; max_q, max_k: bounds on the new tokens and on the
    length of any sequence of the step, known to the host before the step runs.
    """

    T: int = 0
    S: int = 0
    R: int = 0
    U: int = 0
    max_q: int = 0
    max_k: int = 0


@dataclass(frozen=True)
class Extent:
    """A size that varies: `dims.<symbol> * times + plus`."""

    symbol: str
    times: int = 1
    plus: int = 0

    def at(self, dims: Dims) -> int:
        """The size in a step of these dims."""
        size: int = getattr(dims, self.symbol)
        return size * self.times + self.plus


@dataclass(frozen=True)
class Workspace:
    """Bytes a kernel needs beside its arguments, from upper bounds. `zeroed` bytes hold zero when it starts and when
    it ends; they are shared by all kernels."""

    scratch_bytes: int = 0
    zeroed_bytes: int = 0


@dataclass(frozen=True)
class Binding:
    """All that is constant at one place in a Program, handed to `bind` once.

    name       "provider at site", for messages
    args       by the operation's argument names: device tensors at their largest size, KVView, Packed, Rows,
               attribute values; absent optional arguments are None
    extents    first axis of each tensor whose size varies
    bounds     the largest dims that will be seen
    facts      what the constraints see at the largest sizes, whichever of them this kernel is used for
    scratch, zeroed  the workspace asked for: device tensors (u8), or None
    stream     the engine's compute stream
    """

    name: str
    args: Mapping[str, Any]
    extents: Mapping[str, Extent]
    bounds: Dims
    facts: Facts
    scratch: Any
    zeroed: Any
    stream: Any


Run = Callable[[Dims], None]


@dataclass(frozen=True)
class Kernel:
    """One implementation of an operation or composite.

    op         "rms_norm@1"
    provider   "<plugin>.<name>", how users and reports name it
    bind       Binding -> run(dims); native kernels take pointers here and run on numbers
    fn         or: a function called with the op's arguments, cut to the step's sizes; it receives only those it
               declares by name, and may declare max_q and max_k. Exactly one of bind and fn is given
    where      constraints; C() accepts everything that has no features
    tier       SPECIALISED, NATIVE, PORTABLE (torch forms are TORCH)
    workspace  (facts, bounds) -> Workspace
    plan       for attn_paged: provider of the attn_plan kernel whose meta it reads
    """

    op: str
    provider: str
    bind: Callable[[Binding], Run] | None = None
    fn: Callable[..., None] | None = None
    where: C = field(default_factory=C)
    tier: int = NATIVE
    flags: Flag = Flag.NONE
    workspace: Callable[[Facts, Dims], Workspace] | None = None
    plan: str | None = None
