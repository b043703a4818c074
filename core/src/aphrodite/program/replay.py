"""A planned Program bound to memory: fixed addresses, kernels ready to run, nothing left to decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aphrodite.errors import AphroditeError, DeviceError, KernelError, is_interrupt, told
from aphrodite.ops.kernel import Binding, Dims, Extent, Kernel, Run
from aphrodite.ops.op import HOST_BOUNDS, declared
from aphrodite.platform.dtypes import ITEMSIZE
from aphrodite.platform.layout import Packed
from aphrodite.platform.spi import Platform, Stream
from aphrodite.program.bound import Bound, blame
from aphrodite.program.plan import Plan
from aphrodite.program.values import Argument, Ref, Value

_CUTS_KEPT = 64  # sizes whose cut arguments a function kernel remembers; steady decode needs one


class BoundProgram:
    """A Program with memory. `replay(dims)` runs it on the stream; it allocates nothing itself.

    resolve    Ref -> what kernels receive for it (device tensor, Packed, KVView, Rows)
    externals  memory of the Program's named inputs and outputs, at their bounds
    """

    def __init__(
        self,
        plan: Plan,
        platform: Platform,
        stream: Stream,
        *,
        resolve: Callable[[Ref], Any],
        externals: Mapping[str, Any],
    ) -> None:
        self.plan = plan
        self._platform = platform
        self._stream = stream
        self._resolve = resolve
        self.externals = externals
        self._bounds = plan.bounds
        choices = {(b.start, b.stop, b.kernel.provider): b for b in plan.choices()}
        self._space = plan.space
        self._layout = plan.space.arena
        self.arena_bytes = self._layout.num_bytes
        self._arena = platform.memory.arena(max(self.arena_bytes, 1))
        zeroed = plan.space.zeroed_bytes
        self._zeroed = platform.memory.zeros((zeroed,), "u8") if zeroed else None
        self._bound: dict[tuple[int, int, str], Run] = {}
        self._tensors: dict[Value, Any] = {}
        for key, bound in choices.items():
            self._bound[key] = self._bind(bound)
        self._runs: dict[tuple[Dims, int, int | None], tuple[Run, ...]] = {}
        del self._resolve  # who resolves holds this Program: a circle would keep the memory of a closed engine

    def replay(self, dims: Dims, start: int = 0, stop: int | None = None) -> None:
        """Run every call for a step of these sizes, in stream order; or calls [start, stop) alone."""
        key = (self.plan.selector.buckets.of(dims), start, stop)
        runs = self._runs.get(key)
        if runs is None:
            runs = self._runs[key] = tuple(self._run(bound) for bound in self._pieces(dims, start, stop))
        try:
            for run in runs:
                run(dims)
        except AphroditeError:
            raise
        except BaseException as error:  # SystemExit and its like too: the process is not the kernel's to end
            if is_interrupt(error):
                raise
            bound = next(bound for bound in self._pieces(dims, start, stop) if self._run(bound) is run)
            where = f"{bound.kernel.provider} at {bound.call.site}"
            raise DeviceError(f"{where} failed: {told(error)}", subject=bound.call.site) from error

    def restore(self) -> None:
        """Zero again what kernels leave zeroed: one that failed may not have. Nothing of the Program runs."""
        if self._zeroed is not None:
            zeros = self._platform.memory.host(self._zeroed.shape, "u8").zero_()
            self._platform.memory.upload(self._zeroed, zeros, self._stream)
            self._platform.device.synchronize()  # until then `zeros` must live

    def _run(self, bound: Bound) -> Run:
        return self._bound[bound.start, bound.stop, bound.kernel.provider]

    def _pieces(self, dims: Dims, start: int, stop: int | None) -> Iterator[Bound]:
        """The pieces that do calls [start, stop). None of them may reach over an end."""
        stop = len(self.plan.program.calls) if stop is None else stop
        for bound in self.plan.at(dims):
            if bound.stop <= start or bound.start >= stop:
                continue
            if bound.start < start or bound.stop > stop:
                raise KernelError(
                    f"{bound.kernel.provider} at {bound.call.site} does calls {bound.start} to {bound.stop}, and here "
                    f"{start} to {stop} are done alone: leave {bound.call.op.name} out (kernels: none)",
                    subject=bound.call.site,
                )
            yield bound

    def _bind(self, bound: Bound) -> Run:
        call, kernel = bound.call, bound.kernel
        kinds = {arg.name: arg.kind for arg in call.op.schema.args}
        args = {name: self._argument(given, kinds.get(name, "")) for name, given in call.args.items()}
        extents = {
            name: given.extent
            for name, given in call.args.items()
            if isinstance(given, Value) and given.extent is not None
        }
        binding = Binding(
            f"{kernel.provider} at {call.site}",
            args,
            extents,
            self._bounds,
            self.plan.facts(call),
            self._scratch(bound),
            self._zeroed,
            self._stream,
        )
        if kernel.bind is None:
            return bind_function(kernel, binding, self._platform)
        with blame(bound, "binding it"):
            run = kernel.bind(binding)
            if not callable(run):
                raise TypeError(f"bind must return run(dims), got {run!r}")
        return run

    def _scratch(self, bound: Bound) -> Any:
        size = self._space.scratch.get((bound.start, bound.stop, bound.kernel.provider), 0)
        return self._arena.tensor(self._layout.scratch[bound.start, bound.stop], (size,), (1,), "u8") if size else None

    def _argument(self, given: Argument, kind: str) -> Any:
        if isinstance(given, Value):
            return self._tensor(given)
        if isinstance(given, Ref):
            resolved = self._resolve(given)
            return resolved.data if kind == "tensor" and isinstance(resolved, Packed) else resolved
        return given

    def _tensor(self, value: Value) -> Any:
        """The device tensor of a value at the bounds."""
        if value not in self._tensors:
            if value.base.name:
                assert value is value.base, f"views of {value.base.name} are not supported"
                self._tensors[value] = self.externals[value.base.name]
            else:
                offset = self._layout.offsets[value.base] + value.offset * ITEMSIZE[value.dtype]
                shape = value.sizes(self._bounds)
                self._tensors[value] = self._arena.tensor(offset, shape, value.strides(), value.dtype)
        return self._tensors[value]


def bind_function(kernel: Kernel, binding: Binding, platform: Platform) -> Run:
    """Bind a kernel given as a function: it gets the arguments it declares, cut to the step's sizes."""
    assert kernel.fn is not None
    names = declared(kernel.fn)
    function = platform.forms.adapt(kernel.fn, binding.stream, binding.name)
    fixed = {n: binding.args[n] for n in names if n in binding.args and n not in binding.extents}
    varying: list[tuple[str, Any, Extent]] = [
        (n, binding.args[n], binding.extents[n]) for n in names if n in binding.extents
    ]
    host = [name for name in HOST_BOUNDS if name in names]
    cuts: dict[tuple[int, ...], dict[str, Any]] = {}

    def run(dims: Dims) -> None:
        sizes = tuple(extent.at(dims) for _, _, extent in varying)
        cut = cuts.get(sizes)
        if cut is None:
            if len(cuts) >= _CUTS_KEPT:
                cuts.clear()
            cut = {n: t.narrow(0, 0, size) for (n, t, _), size in zip(varying, sizes, strict=True)}
            cuts[sizes] = cut
        function(**fixed, **cut, **{name: getattr(dims, name) for name in host})

    return run
