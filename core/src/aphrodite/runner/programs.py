"""The Programs of a runner, beside the forward and sampling ones: what the host writes to the device between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from aphrodite.ops import attention, rows
from aphrodite.ops.kernel import Extent
from aphrodite.program.replay import BoundProgram
from aphrodite.program.trace import Program, Tracer
from aphrodite.program.values import KVRef, RowsRef
from aphrodite.sampling.program import Variant

_U = Extent("U")


def record_updates() -> Program:
    """A Program of one call: the host's differences written into the row state."""
    t = Tracer("updates")
    index, values = t.external("index", (_U,), "i32"), t.external("values", (_U,), "i32")
    t.call(rows.write_rows, "updates.rows", rows=RowsRef(), index=index, values=values)
    return t.finish()


def record_zeroing(caches: Iterable[KVRef]) -> Program:
    """The blocks at `index` zeroed in each layer of a cache group."""
    t = Tracer("zeroing")
    index = t.external("index", (_U,), "i32")
    for number, cache in enumerate(caches):
        t.call(attention.zero_blocks, f"zeroing.{number}", cache=cache, blocks=index)
    return t.finish()


class Programs:
    """A runner's Programs, bound. zeroing has one for each cache group; a sampling variant is bound by `bind` when it
    is first asked for; attention is what a network of modules calls back into."""

    def __init__(
        self,
        forward: BoundProgram,
        updates: BoundProgram,
        zeroing: Sequence[BoundProgram],
        bind: Callable[[Variant], BoundProgram],
        attention: BoundProgram | None = None,
    ) -> None:
        self.forward = forward
        self.updates = updates
        self.zeroing = tuple(zeroing)
        self._bind = bind
        self._inner = () if attention is None else (attention,)
        self._sampling: dict[Variant, BoundProgram] = {}

    def sampling(self, variant: Variant) -> BoundProgram:
        """The sampling Program for a step."""
        if variant not in self._sampling:
            self._sampling[variant] = self._bind(variant)
        return self._sampling[variant]

    def __iter__(self) -> Iterator[BoundProgram]:
        """All that are bound so far."""
        yield from (self.forward, *self._inner, self.updates, *self.zeroing, *self._sampling.values())
