"""The runner: submit a step's forward pass, sample from it, hand the results over when they have arrived."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from aphrodite.errors import DeviceError
from aphrodite.ops.kernel import Dims
from aphrodite.platform.spi import Event, Platform, Stream
from aphrodite.program.replay import BoundProgram
from aphrodite.runner.graphs import GraphReplay
from aphrodite.runner.programs import Programs
from aphrodite.runner.rows import RowTable
from aphrodite.runner.staging import Ring
from aphrodite.sampling.program import Variant
from aphrodite.types.sampling_params import MAX_LOGPROBS
from aphrodite.types.step import Int32, Logprobs, Pending, SchedulerOutput, StepOutput

PLAN_INPUTS = ("seq_rows", "num_new", "num_logits", "draws")
_PADDING = np.array([[-1], [0], [0], [0]], np.int32)  # row -1, no tokens, no logits, no draw


@dataclass(frozen=True)
class Step:
    """A submitted step: its plan, its sizes (padded where the device wants it), its true number of logit rows."""

    plan: SchedulerOutput
    dims: Dims
    num_logits: int


class ModelRunner:
    """The Runner for every device that has a Platform. Lives on one thread.

    plan       device memory [4, S] of the step's plan; its rows are the Programs' inputs
    updates    device memory [2, U] of index and values
    """

    def __init__(
        self,
        platform: Platform,
        stream: Stream,
        programs: Programs,
        rows: RowTable,
        plan: Any,
        updates: Any,
        bounds: Dims,
        *,
        pad: bool,
        steps_in_flight: int,
    ) -> None:
        self._platform = platform
        self._stream = stream
        self._programs = programs
        self._rows = rows
        self._plan = plan
        self._updates = updates
        self._edits_size = bounds.U
        self._pad = pad
        self._graphs = GraphReplay(platform.graphs if pad else None, stream, bounds)
        self._vocab_size = int(programs.forward.externals["logits"].shape[1])
        slots = steps_in_flight + 2
        host = platform.memory.host
        width = 1 + MAX_LOGPROBS
        self._plans = Ring(slots, lambda: host((len(PLAN_INPUTS), bounds.S), "i32"), platform)
        self._edits = Ring(slots, lambda: host((2, bounds.U), "i32"), platform)
        self._results = Ring(slots, lambda: HostResults.make(host, bounds.R, width), platform)

    def submit(self, plan: SchedulerOutput) -> Step:
        """Upload the differences and start the forward pass. Returns at once on devices that run behind."""
        for group, blocks in plan.zero_blocks:
            self._write(self._programs.zeroing[group], np.array(blocks, np.int32))
        self._write(self._programs.updates, *self._rows.updates(plan.new_rows, plan.new_blocks))
        num_seqs = len(plan.rows)
        staged, event = self._plans.take()
        host = staged.numpy()
        host[:, num_seqs:] = _PADDING
        for line, column in enumerate((plan.rows, plan.num_new, plan.num_logits, plan.draws)):
            host[line, :num_seqs] = column
        self._platform.memory.upload(self._plan, staged, self._stream)
        event.record(self._stream)
        num_logits = int(plan.num_logits.sum())
        dims = Dims(
            T=int(plan.num_new.sum()),
            S=num_seqs,
            R=num_logits,
            max_q=int(plan.num_new.max()),
            max_k=plan.max_k,
        )
        if self._pad:
            dims = self._programs.forward.plan.selector.buckets.of(dims)
        self._graphs.replay(self._programs.forward, dims)
        return Step(plan, dims, num_logits)

    def sample(self, step: Step, late: None = None) -> Pending:
        """Draw from the step's logits, commit to the rows, and start copying the results out.

        late  host data that arrives after the forward pass was submitted (grammar masks); there is none yet
        """
        plan, num = step.plan, step.num_logits
        program = self._programs.sampling(Variant.of(plan))
        self._graphs.replay(program, step.dims)
        results, event = self._results.take()
        arrays = results.arrays(program.externals, num)
        for name, host in arrays.items():
            self._platform.memory.download(host, program.externals[name].narrow(0, 0, num), self._stream)
        event.record(self._stream)
        return PendingResults(arrays, event, self._vocab_size)

    def recover(self) -> None:
        """After a failure: wait until nothing of the steps submitted so far runs any more, and forget them. What was
        left half done is made good: rows are written whole by the plans to come, zeroed workspace is zeroed again.
        DeviceError if the device is lost."""
        try:
            self._platform.device.synchronize()
        except Exception:  # the failure itself, told once; the device may be sound
            self._platform.device.synchronize()
        self._platform.memory.trim()
        for ring in (self._plans, self._edits, self._results):
            ring.forget()
        for program in self._programs:
            program.restore()

    def close(self) -> None:
        """Wait for the device and let go of it and of all its memory."""
        try:
            self._platform.device.synchronize()
        finally:
            self._platform.device.close()
            del self._programs, self._graphs, self._plan, self._updates, self._plans, self._edits, self._results

    def _write(self, program: BoundProgram, *columns: Int32) -> None:
        """Run a Program over columns of i32 (index, values), in as many uploads as the staging buffer needs."""
        for start in range(0, len(columns[0]), self._edits_size):
            staged, event = self._edits.take()
            count = min(self._edits_size, len(columns[0]) - start)
            host = staged.numpy()
            for line, column in enumerate(columns):
                host[line, :count] = column[start : start + count]
            self._platform.memory.upload(self._updates, staged, self._stream)
            event.record(self._stream)
            program.replay(Dims(U=count))


@dataclass(frozen=True)
class HostResults:
    """Host memory for one step's results, flat, so that every size is contiguous."""

    flat: Mapping[str, torch.Tensor]

    @classmethod
    def make(cls, host: Callable[..., torch.Tensor], rows: int, width: int) -> HostResults:
        sizes = {
            "ids": (rows, "i64"),
            "rank": (rows, "i64"),
            "lp": (rows * width, "f32"),
            "top_ids": (rows * width, "i64"),
        }
        return cls({name: host((size,), dtype) for name, (size, dtype) in sizes.items()})

    def arrays(self, outputs: Mapping[str, Any], num: int) -> dict[str, torch.Tensor]:
        """Host tensors for the first `num` rows of those results that a Program puts out."""
        shapes = {name: (num, *tuple(outputs[name].shape)[1:]) for name in self.flat if name in outputs}
        return {name: self.flat[name][: math.prod(shape)].view(shape) for name, shape in shapes.items()}


@dataclass(frozen=True)
class PendingResults:
    """A step's results: the host arrays are copied once the event has passed, before their ring slot is used again."""

    arrays: Mapping[str, torch.Tensor]
    event: Event
    vocab_size: int

    def done(self) -> bool:
        return self.event.done()

    def result(self) -> StepOutput:
        self.event.wait()
        host = {name: tensor.numpy().copy() for name, tensor in self.arrays.items()}
        if ((host["ids"] < -1) | (host["ids"] >= self.vocab_size)).any():
            raise DeviceError(
                f"the device drew a token that is neither -1 nor in 0..{self.vocab_size - 1}: {host['ids'].tolist()}",
                subject="ids",
            )
        logprobs = Logprobs(host["lp"], host["top_ids"], host["rank"]) if "lp" in host else None
        return StepOutput(host["ids"], logprobs)
