"""Replaying Programs as captured graphs, where the platform captures and every kernel of the step is safe for it."""

from __future__ import annotations

from aphrodite.ops.kernel import Dims, Flag
from aphrodite.platform.spi import Graphs, Stream
from aphrodite.program.replay import BoundProgram

_ASKED_BEFORE_CAPTURE = 2  # the first steps of a size run as they are: no answer waits for a capture


class GraphReplay:
    """Replays a Program: eagerly, until a padded size has been asked for twice; from then on as a graph.

    A graph's geometry comes from bounds: it is captured with max_k at its largest, and what varies within a bucket is
    read from device memory. Sizes whose kernels are not all CAPTURE_SAFE stay eager.
    """

    def __init__(self, graphs: Graphs | None, stream: Stream, bounds: Dims) -> None:
        self._graphs = graphs if graphs is not None and graphs.kind == "capture" else None
        self._stream = stream
        self._bounds = bounds
        self._asked: dict[tuple[BoundProgram, Dims], int] = {}
        self._handles: dict[tuple[BoundProgram, Dims], object] = {}

    @property
    def num_captured(self) -> int:
        """Graphs captured so far."""
        return len(self._handles)

    def replay(self, program: BoundProgram, dims: Dims) -> None:
        """Run the Program for a step of these (padded) sizes, in stream order."""
        if self._graphs is None:
            program.replay(dims)
            return
        key = (program, dims._replace(max_k=self._bounds.max_k))
        handle = self._handles.get(key)
        if handle is None:
            handle = self._capture(self._graphs, *key)
        if handle is None:
            program.replay(dims)
        else:
            self._graphs.replay(handle, self._stream)

    def _capture(self, graphs: Graphs, program: BoundProgram, dims: Dims) -> object | None:
        asked = self._asked[program, dims] = self._asked.get((program, dims), 0) + 1
        if asked != _ASKED_BEFORE_CAPTURE + 1:
            return None
        if not all(bound.kernel.flags & Flag.CAPTURE_SAFE for bound in program.plan.at(dims)):
            return None
        handle = graphs.capture(lambda: program.replay(dims), self._stream)
        self._handles[program, dims] = handle
        return handle
