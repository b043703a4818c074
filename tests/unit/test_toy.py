"""The toy device: memory out of reach, work that runs late, kernels of its own, and engines that run right on it."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aphrodite import LLM, SamplingParams
from aphrodite.blueprint import Blueprint, draw_up
from aphrodite.config.engine import config_from
from aphrodite.ops.table import COMPOSITES
from aphrodite.plugin import (
    Binding,
    Composite,
    DeviceError,
    DeviceInfo,
    Dims,
    Example,
    Extent,
    Kernel,
    KVView,
    Op,
    Packed,
    ShapeError,
    Unavailable,
    operations,
    torch_dtype,
)
from aphrodite.program.replay import bind_function
from aphrodite.runner import runner, staging
from aphrodite_toy import attention
from aphrodite_toy.kernels import KERNELS
from aphrodite_toy.layouts import COLUMNS, THDKB
from aphrodite_toy.memory import ToyTensor
from aphrodite_toy.platform import ToyPlatform
from aphrodite_toy.plugin import JITTER, aphrodite_probe, make_platform

INFO = DeviceInfo("toy", "a device under test")
FLOATS = ("f32", "bf16", "f16")
META_WORDS = attention.META_WORDS + 64 * attention.META_WORDS_A_SEQ


def device_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "toy device"]


@pytest.fixture
def toy() -> Iterator[ToyPlatform]:
    platform = ToyPlatform.make(INFO, jitter_s=0)
    yield platform
    platform.device.close()
    assert not device_threads()


def on_device(toy: ToyPlatform, host: Tensor, dtype: str = "f32") -> ToyTensor:
    tensor = toy.memory.empty(host.shape, dtype)
    toy.memory.upload(tensor, host, toy.device.stream())
    return tensor


def fetch(toy: ToyPlatform, tensor: ToyTensor) -> Tensor:
    host = toy.memory.host(tensor.shape, tensor.dtype)
    toy.memory.download(host, tensor, toy.device.stream())
    toy.device.synchronize()
    return host


class Gate:
    """Holds a device at one place in its queue until it is opened: lateness without a clock."""

    def __init__(self, toy: ToyPlatform) -> None:
        self._open = threading.Event()
        toy.device.stream().enqueue("gate", lambda: self._wait())

    def _wait(self) -> None:
        assert self._open.wait(timeout=60), "the gate was never opened"

    def open(self) -> None:
        self._open.set()


def is_poison(host: Tensor) -> bool:
    return bool((host.isnan() if host.is_floating_point() else host < -900_000).all())


# ---- memory ---------------------------------------------------------------------------------------------------------

READINGS: Mapping[str, Callable[[Any], object]] = {
    "torch.tensor": torch.tensor,
    "torch.as_tensor": torch.as_tensor,
    "torch.asarray": torch.asarray,
    "torch.from_numpy": torch.from_numpy,
    "torch.from_dlpack": torch.from_dlpack,
    "torch.frombuffer": lambda x: torch.frombuffer(x, dtype=torch.float32),
    "torch.add": lambda x: torch.add(x, 1),
    "x + tensor": lambda x: x + torch.ones(3),
    "tensor + x": lambda x: torch.ones(3) + x,
    "copy_": lambda x: torch.ones(3).copy_(x),
    "torch.stack": lambda x: torch.stack([x, x]),
    "x.data_ptr": lambda x: x.data_ptr(),
    "x.numpy": lambda x: x.numpy(),
    "x.tolist": lambda x: x.tolist(),
    "x.item": lambda x: x.item(),
    "x.cpu": lambda x: x.cpu(),
    "numpy floats": lambda x: np.asarray(x, dtype=np.float32),
    "memoryview": memoryview,
    "bytes": bytes,
    "float": float,
    "int": int,
    "bool": bool,
    "len": len,
    "list": list,
    "unpacking": lambda x: [*x],
    "in": lambda x: 1.0 in x,
}


@pytest.mark.parametrize("reading", READINGS)
def test_nothing_on_the_host_reads_device_memory(toy: ToyPlatform, reading: str) -> None:
    tensor = on_device(toy, torch.tensor([1.5, 2.5, 3.5]))
    toy.device.synchronize()
    errors = (TypeError, ValueError, RuntimeError, AttributeError, BufferError)
    with pytest.raises(errors):
        READINGS[reading](tensor)
    for entry in (tensor[0], tensor.narrow(0, 1, 1)):
        with pytest.raises(errors):
            READINGS[reading](entry)


def test_no_bytes_are_reachable_from_a_tensor(toy: ToyPlatform) -> None:
    tensor = on_device(toy, torch.tensor([1.5, 2.5, 3.5]))
    assert not isinstance(tensor, Tensor)
    for name in ("__array__", "__array_interface__", "__torch_function__", "__dlpack__", "__buffer__", "data"):
        assert not hasattr(tensor, name)
    seen: dict[int, object] = {}
    ahead: list[object] = [tensor]
    while ahead:
        thing = ahead.pop()
        if id(thing) in seen or isinstance(thing, (type, types.ModuleType, types.FunctionType)):
            continue
        seen[id(thing)] = thing
        ahead += gc.get_referents(thing)
    assert not [thing for thing in seen.values() if isinstance(thing, (Tensor, np.ndarray, bytes, memoryview))]


def test_a_tensor_shows_its_shape_and_never_its_contents(toy: ToyPlatform) -> None:
    assert repr(on_device(toy, torch.tensor([1.5, 2.5]))) == "ToyTensor(f32[2], on the device)"
    with pytest.raises(TypeError, match="use the Platform's download"):
        bool(toy.memory.zeros((1,), "f32"))


def test_views_name_the_same_memory(toy: ToyPlatform) -> None:
    numbers = torch.arange(24.0).view(2, 3, 4)
    tensor = on_device(toy, numbers)
    assert torch.equal(fetch(toy, tensor[1]), numbers[1])
    assert torch.equal(fetch(toy, tensor.narrow(2, 1, 2)[0][2]), numbers[0, 2, 1:3])
    toy.memory.upload(tensor.narrow(1, 2, 1), torch.zeros(2, 1, 4), toy.device.stream())
    numbers[:, 2] = 0
    assert torch.equal(fetch(toy, tensor), numbers)
    assert fetch(toy, tensor.narrow(0, 2, 0)).shape == (0, 3, 4)


def test_views_outside_a_tensor_are_refused(toy: ToyPlatform) -> None:
    tensor = toy.memory.zeros((4, 2), "f32")
    with pytest.raises(ShapeError, match=r"narrow\(0, 3, 2\) of a tensor of \[4, 2\]"):
        tensor.narrow(0, 3, 2)
    for index in (4, -1):
        with pytest.raises(IndexError):
            tensor[index]


def test_a_transfer_neither_broadcasts_nor_converts(toy: ToyPlatform) -> None:
    tensor = toy.memory.zeros((2, 2), "f32")
    for host in (torch.zeros(2), torch.zeros(2, 2, dtype=torch.float64)):
        with pytest.raises(ShapeError, match="upload"):
            toy.memory.upload(tensor, host, toy.device.stream())
        with pytest.raises(ShapeError, match="download"):
            toy.memory.download(host, tensor, toy.device.stream())


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "f64", "i32", "i64"])
def test_undefined_memory_is_poison(toy: ToyPlatform, dtype: str) -> None:
    size = torch_dtype(dtype).itemsize
    assert is_poison(fetch(toy, toy.memory.empty((3, 5), dtype)))
    assert is_poison(fetch(toy, toy.memory.arena(512).tensor(256, (4, 3), (5, 1), dtype)))
    assert is_poison(toy.memory.host((7,), dtype))
    assert not fetch(toy, toy.memory.zeros((3, 5), dtype)).any()
    assert size * 15 <= 512


def test_allocations_are_aligned_to_256_bytes(toy: ToyPlatform) -> None:
    addresses: list[int] = []
    tensors = [toy.memory.empty((3,), "u8") for _ in range(20)]
    tensors += [toy.memory.arena(700).tensor(256, (3,), (1,), "u8")]
    toy.device.stream().enqueue("look", lambda *views: addresses.extend(v.data_ptr() for v in views), *tensors)
    toy.device.synchronize()
    assert all(address % 256 == 0 for address in addresses)


def test_memory_is_freed_with_its_last_view(toy: ToyPlatform) -> None:
    heap = toy.memory.heap
    view = on_device(toy, torch.arange(4.0)).narrow(0, 1, 2)
    toy.device.synchronize()
    assert len(heap._bytes) == 1 and torch.equal(fetch(toy, view), torch.tensor([1.0, 2.0]))
    del view
    toy.device.synchronize()
    gc.collect()
    assert len(heap._bytes) == 0


# ---- execution ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i32", "i64"])
def test_a_result_is_poison_until_its_event_has_passed(toy: ToyPlatform, dtype: str) -> None:
    numbers = torch.arange(6).to(torch_dtype(dtype)).view(2, 3)
    tensor = on_device(toy, numbers, dtype)
    gate, stream, event = Gate(toy), toy.device.stream(), toy.device.event()
    host = torch.zeros_like(numbers)
    toy.memory.download(host, tensor, stream)
    event.record(stream)
    assert not event.done() and is_poison(host)
    gate.open()
    event.wait()
    assert event.done() and torch.equal(host, numbers)


def test_an_upload_reads_its_buffer_late(toy: ToyPlatform) -> None:
    tensor, staged = toy.memory.empty((3,), "f32"), torch.tensor([1.0, 2.0, 3.0])
    gate = Gate(toy)
    toy.memory.upload(tensor, staged, toy.device.stream())
    staged[1] = 9.0  # too early: no event has passed
    gate.open()
    assert fetch(toy, tensor).tolist() == [1.0, 9.0, 3.0]


def test_an_event_covers_what_came_before_it_alone(toy: ToyPlatform) -> None:
    stream, event, later = toy.device.stream(), toy.device.event(), toy.device.event()
    assert event.done()  # never recorded
    event.record(stream)
    gate = Gate(toy)
    later.record(stream)
    event.wait()
    assert event.done() and not later.done()
    event.record(stream)  # again: now it stands behind the gate
    assert not event.done()
    gate.open()
    later.wait()
    event.wait()


def test_work_runs_in_order_on_a_thread_of_the_device(toy: ToyPlatform) -> None:
    seen: list[tuple[int, str]] = []
    streams = [toy.device.stream(), toy.device.stream()]
    for number in range(50):
        streams[number % 2].enqueue("note", lambda n: seen.append((n, threading.current_thread().name)), number)
    toy.device.synchronize()
    assert seen == [(number, "toy device") for number in range(50)]


def test_failing_work_is_named_where_the_host_waits(toy: ToyPlatform) -> None:
    stream, before, after = toy.device.stream(), toy.device.event(), toy.device.event()
    ran: list[str] = []

    def explode() -> None:
        raise ZeroDivisionError("no such number")

    before.record(stream)
    stream.enqueue("acme.broken", explode)
    stream.enqueue("acme.next", lambda: ran.append("next"))
    after.record(stream)
    before.wait()  # its own work was sound
    for wait in (after.wait, after.wait, toy.device.synchronize):
        with pytest.raises(
            DeviceError, match=r"acme\.broken failed on toy: ZeroDivisionError: no such number"
        ) as caught:
            wait()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert after.done() and not ran


def test_a_torch_form_runs_late_and_its_failure_has_its_name(toy: ToyPlatform) -> None:
    form = toy.forms.adapt(operations()["add@1"].reference, toy.device.stream(), "add")
    res = on_device(toy, torch.ones(2, 3))
    form(res=res, x=res)
    assert torch.equal(fetch(toy, res), torch.full((2, 3), 2.0))
    form(res=res, x=on_device(toy, torch.ones(5)))
    with pytest.raises(DeviceError, match="add failed on toy"):
        toy.device.synchronize()


def test_two_devices_share_nothing(toy: ToyPlatform) -> None:
    other = ToyPlatform.make(INFO, jitter_s=0)
    try:
        gate = Gate(toy)
        theirs = on_device(other, torch.ones(2))
        assert torch.equal(fetch(other, theirs), torch.ones(2))  # while the first one hangs
        toy.memory.download(torch.empty(2), theirs, toy.device.stream())
        gate.open()
        with pytest.raises(DeviceError, match="not one of this device's"):
            toy.device.synchronize()
        other.device.synchronize()  # its neighbour's failure is none of its business
        assert len(device_threads()) == 2
    finally:
        other.device.close()


def test_closing_ends_the_thread_and_refuses_work() -> None:
    platform = ToyPlatform.make(INFO, jitter_s=0)
    assert not device_threads()  # nothing to do yet, so no thread
    platform.device.synchronize()
    assert len(device_threads()) == 1
    platform.device.close()
    platform.device.close()
    assert not device_threads()
    with pytest.raises(DeviceError, match="toy is closed"):
        platform.device.synchronize()


def test_work_is_late_by_the_asked_mean_and_alike_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr("aphrodite_toy.device.time.sleep", naps.append)

    def run(setting: str) -> list[float]:
        naps.clear()
        monkeypatch.setenv(JITTER, setting)
        platform = make_platform(INFO)
        for _ in range(200):
            platform.device.stream().enqueue("nothing", lambda: None)  # type: ignore[attr-defined]
        platform.device.synchronize()
        platform.device.close()
        return list(naps)

    first = run("300")
    assert len(set(first)) == 200 and 250e-6 < sum(first) / 200 < 350e-6
    assert run("300") == first
    assert run("0") == []


# ---- plugin ---------------------------------------------------------------------------------------------------------


def test_importing_and_probing_loads_no_torch() -> None:
    code = (
        "import sys; from aphrodite_toy import plugin; print(plugin.aphrodite_probe({})); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "DeviceInfo(device='toy'" in out and out.splitlines()[-1] == "False"


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "fast"])
def test_a_wrong_setting_makes_it_unavailable_with_a_reason(value: str) -> None:
    answer = aphrodite_probe({JITTER: value})
    assert isinstance(answer, Unavailable)
    assert answer.reason == f"APHRODITE_TOY_JITTER_US must be a number of microseconds >= 0, got {value!r}"


def test_it_is_never_chosen_unasked(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APHRODITE_TARGET_DEVICE", raising=False)
    blueprint = draw_up(config_from({"model": checkpoints.tied, "plugins": "toy"}))
    assert [report.state for report in blueprint.found.reports if report.name == "toy"] == ["ready"]
    assert blueprint.entry.info.device == "cpu"


# ---- kernels --------------------------------------------------------------------------------------------------------

VARYING = {"T": "T", "M": "T", "n": "T", "S": "S", "S+1": "S"}  # first axes that steps cut, and the Dims they follow
SPARE = 3  # rows at the end of each buffer that no kernel may write


@dataclass
class Bench:
    """One kernel at one place, as the core would bind it, with buffers larger than the step."""

    toy: ToyPlatform
    kernel: Kernel
    op: Op
    given: Mapping[str, Any]
    dtype: str

    def facts(self) -> dict[str, Any]:
        sizes: dict[str, Any] = {}
        for arg in self.op.schema.args:
            value = self.given[arg.name]
            if (arg.kind == "tensor" and value is not None) or isinstance(value, Packed):
                sizes |= dict(zip(arg.dims, value.shape, strict=True))
        attrs = {attr.name: self.given[attr.name] for attr in self.op.schema.attrs}
        absent = {arg.name for arg in self.op.schema.args if arg.optional and self.given[arg.name] is None}
        absent |= {a.name for a in self.op.schema.attrs if not a.required and attrs[a.name] == a.default}
        features = self.op.schema.features - absent
        weights = COLUMNS.name if any(isinstance(value, Packed) for value in self.given.values()) else "plain"
        layout = THDKB.name
        return {**sizes, **attrs, "dtype": self.dtype, "layout": layout, "weights": weights, "features": features}

    def run(self) -> dict[str, Tensor]:
        """What the kernel writes. Fails if it writes behind the step's rows or leaves zeroed bytes unzeroed."""
        facts = self.facts()
        extents = {
            arg.name: Extent(VARYING[arg.dims[0]], 1, arg.dims[0].count("+"))
            for arg in self.op.schema.args
            if arg.kind == "tensor" and arg.dims[0] in VARYING and self.given[arg.name] is not None
        }
        args = {name: self.place(name, value, name in extents) for name, value in self.given.items()}
        dims = Dims(T=next((len(self.given[n]) for n, e in extents.items() if e.symbol == "T"), 0), S=facts.get("S", 0))
        bounds = Dims(T=dims.T + SPARE, S=dims.S + SPARE)
        sizes = {name: facts[name] + SPARE for name in VARYING if name in facts}
        space = self.kernel.workspace({**facts, **sizes}, bounds) if self.kernel.workspace else None
        memory = self.toy.memory
        scratch = memory.arena(space.scratch_bytes).tensor(0, (space.scratch_bytes,), (1,), "u8") if space else None
        zeroed = memory.zeros((space.zeroed_bytes + 5,), "u8") if space else None
        binding = Binding("toy under test", args, extents, bounds, facts, scratch, zeroed, self.toy.device.stream())
        bind = self.kernel.bind or (lambda binding: bind_function(self.kernel, binding, self.toy))
        run = bind(binding)
        run(dims)
        if not self.kernel.op.startswith("add_"):  # those that work in place can run once only
            run(dims)  # the workspace is as the first run left it
        found = {}
        for arg in self.op.schema.args:
            if arg.written and arg.kind == "tensor" and self.given[arg.name] is not None:
                whole = fetch(self.toy, args[arg.name])
                size = len(self.given[arg.name])
                found[arg.name] = whole[:size]
                assert arg.name not in extents or is_poison(whole[size:])
        assert zeroed is None or not fetch(self.toy, zeroed).any()
        return found

    def place(self, name: str, value: Any, varies: bool) -> Any:
        stream = self.toy.device.stream()
        if isinstance(value, KVView):
            return self.place_cache(value)
        if isinstance(value, Packed):
            storage = self.toy.memory.empty(COLUMNS.storage(value.shape), value.dtype)
            assert COLUMNS.pack is not None
            *stack, n, k = value.shape
            for index in range(*stack or (1,)):
                matrix, place = (value.data[index], storage[index]) if stack else (value.data, storage)
                for start in range(0, n, 7):  # chunk by chunk, as weights are loaded
                    piece = COLUMNS.pack(matrix[start : start + 7], start, (n, k))
                    target = place.narrow(piece.dim, piece.start, piece.data.shape[piece.dim])
                    self.toy.memory.upload(target, piece.data, stream)
            return Packed(storage, COLUMNS, value.shape, value.dtype)
        if not isinstance(value, Tensor):
            return value
        dtype = {torch_dtype(d): d for d in ("f32", "bf16", "f16", "i32", "i64")}[value.dtype]
        shape = (value.shape[0] + SPARE, *value.shape[1:]) if varies else tuple(value.shape)
        tensor = self.toy.memory.empty(shape, dtype)
        self.toy.memory.upload(tensor.narrow(0, 0, value.shape[0]), value, stream)
        return tensor

    def place_cache(self, view: KVView) -> KVView:
        canonical = view.canonical()
        num_blocks, block_size, heads, dim = canonical[0].shape
        there = self.toy.memory.allocate_kv(
            THDKB,
            num_blocks=num_blocks,
            block_size=block_size,
            num_heads=heads,
            head_dim=dim,
            value_dim=dim,
            dtype=self.dtype,
        )
        for target, half in zip((there.k, there.v), canonical, strict=True):  # [token, head, dim, block]
            self.toy.memory.upload(target, half.permute(1, 2, 3, 0), self.toy.device.stream())
        return there


def copied(args: Mapping[str, Any], dtype: torch.dtype | None = None) -> dict[str, Any]:
    """A call's arguments anew, floating ones in another type if one is given."""

    def copy(value: Any) -> Any:
        if isinstance(value, KVView):
            return replace(value, k=copy(value.k), v=copy(value.v))
        if isinstance(value, Packed):
            return replace(value, data=copy(value.data))
        if isinstance(value, Tensor):
            return value.clone().to(dtype) if dtype and value.is_floating_point() else value.clone()
        return value

    return {name: copy(value) for name, value in args.items()}


def complete(op: Op, args: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of the schema, absent ones None, attributes at their defaults."""
    tensors = {arg.name: args.get(arg.name) for arg in op.schema.args}
    return tensors | {attr.name: args.get(attr.name, attr.default) for attr in op.schema.attrs}


def referred(op: Op, args: Mapping[str, Any], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """What the operation's reference writes, in the arguments' own types or in another."""
    mine = copied(args, dtype)
    op.reference(**{name: value for name, value in mine.items() if name in op.schema.by_name})
    return {name: mine[name] for name in op.outputs if isinstance(mine[name], Tensor)}


def assert_close(found: Tensor, near: Tensor, truth: Tensor, c: float, where: str) -> None:
    """The contract's tolerance: err <= 2 err(reference in the same type) + c eps scale, both against float64."""
    if truth.numel() == 0:
        return
    error, theirs = (found.double() - truth).abs().max(), (near.double() - truth).abs().max()
    bound = 2 * theirs + c * torch.finfo(found.dtype).eps * truth.abs().max()
    assert error <= bound, f"{where}: error {error:.3g} above {bound:.3g}"


def silu_examples(op: Op, dtype: str, seed: int) -> list[Example]:
    """act_mul's own examples have SiLU, all that the toy serves, on no tokens alone."""
    if op.name != "act_mul@1":
        return []
    x = (torch.randn(16, 96, generator=torch.Generator().manual_seed(seed)) * 4).to(torch_dtype(dtype))
    return [Example("silu", {"out": torch.empty_like(x[:, :48]), "x": x, "kind": "silu"})]


PROVIDERS = ("toy.rms_norm", "toy.act_mul", "toy.linear", "toy.gather_rows", "toy.experts")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_kernel_computes_what_its_operation_means(toy: ToyPlatform, provider: str, dtype: str) -> None:
    kernel = next(kernel for kernel in KERNELS if kernel.provider == provider)
    op = operations()[kernel.op]
    assert op.examples is not None
    served = 0
    for seed in range(3):
        for example in (*op.examples(dtype, seed), *silu_examples(op, dtype, seed)):
            args = complete(op, example.args)
            bench = Bench(toy, kernel, op, args, dtype)
            if kernel.where.refusal(bench.facts()) is not None:
                continue
            served += 1
            near, truth = referred(op, args), referred(op, args, torch.float64)
            for name, found in bench.run().items():
                assert_close(found, near[name], truth[name], op.tolerance.c, f"{example.label} {name}")
    assert served >= 3, f"only {served} examples are within the kernel's constraints"


def as_operation(composite: Composite) -> Op:
    """A composite as an Op, for its schema; its reference is its run of operations."""
    return Op(composite.name, composite.schema, lambda: None, composite.doc)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", [0, 1])
def test_the_composite_is_its_two_operations(toy: ToyPlatform, dtype: str, offset: int) -> None:
    add, norm = operations()["add@1"], operations()["rms_norm@1"]
    kernel = next(kernel for kernel in KERNELS if kernel.provider == "toy.add_rms_norm")
    g = torch.Generator().manual_seed(offset)
    for num, width in ((1, 4), (5, 64), (17, 576)):
        x, res, w = (torch.randn(s, generator=g).to(torch_dtype(dtype)) for s in ((num, width), (num, width), (width,)))
        args = {"x": x, "res": res, "w": w, "eps": 1e-5, "offset": offset}

        def both(kind: torch.dtype | None, args: dict[str, Any] = args) -> dict[str, Tensor]:
            mine = copied(args, kind)
            add.reference(res=mine["res"], x=mine["x"])
            mine["res"].copy_(mine["res"].to(torch_dtype(dtype)))  # rounded to A, as the composite says
            norm.reference(out=mine["x"], x=mine["res"], w=mine["w"], eps=1e-5, offset=offset)
            return mine

        near, truth = both(None), both(torch.float64)
        found = Bench(toy, kernel, as_operation(COMPOSITES["add_rms_norm@1"]), args, dtype).run()
        assert set(found) == {"x", "res"}
        assert torch.equal(found["res"], near["res"])
        assert_close(found["x"], near["x"], truth["x"], norm.tolerance.c, f"T={num} H={width}")


@pytest.mark.parametrize("dtype", FLOATS)
def test_attention_works_off_what_its_plan_wrote(toy: ToyPlatform, dtype: str) -> None:
    kernel = next(kernel for kernel in KERNELS if kernel.provider == "toy.attention")
    op, planner = operations()[kernel.op], operations()["attn_plan@1"]
    plan = next(k for k in KERNELS if k.provider == kernel.plan)
    assert op.examples is not None
    served = []
    for seed in range(2):
        for example in op.examples(dtype, seed):
            args = complete(op, example.args) | {"meta": torch.zeros(META_WORDS, dtype=torch.int32)}
            bench = Bench(toy, kernel, op, args, dtype)
            if kernel.where.refusal(bench.facts()) is not None:
                continue
            served.append(example.label)
            inputs = {name: args[name] for name in ("meta", "seq_lens", "cu_q")}
            bench.given = args | Bench(toy, plan, planner, inputs, dtype).run()
            near, truth = referred(op, args), referred(op, args, torch.float64)
            assert_close(bench.run()["out"], near["out"], truth["out"], op.tolerance.c, example.label)
    assert len(served) >= 6 and any("window" in label for label in served)
    refused = {label for e in op.examples(dtype, 0) if (label := e.label) not in served}
    assert any("softcap" in label for label in refused) and any("sinks" in label for label in refused)


def test_the_plan_lists_sequences_that_have_work(toy: ToyPlatform) -> None:
    plan = next(kernel for kernel in KERNELS if kernel.provider == attention.PLAN)
    inputs = {
        "meta": torch.zeros(META_WORDS, dtype=torch.int32),
        "seq_lens": torch.tensor([5, 0, 37, 0], dtype=torch.int32),  # two of padding
        "cu_q": torch.tensor([0, 5, 5, 6, 6], dtype=torch.int32),
    }
    meta = Bench(toy, plan, operations()["attn_plan@1"], inputs, "f32").run()["meta"]
    assert meta[:9].tolist() == [2, 0, 0, 5, 5, 2, 5, 1, 37]


def test_attention_without_its_plan_fails(toy: ToyPlatform) -> None:
    kernel = next(kernel for kernel in KERNELS if kernel.provider == "toy.attention")
    op = operations()[kernel.op]
    assert op.examples is not None
    poisoned = toy.memory.host((META_WORDS,), "i32")
    args = complete(op, next(iter(op.examples("f32", 0))).args) | {"meta": poisoned}
    with pytest.raises(DeviceError, match="toy under test failed on toy"):
        Bench(toy, kernel, op, args, "f32").run()


# ---- engine ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoints:
    """Folders of tiny Llama models. odd: its hidden size, 66, is no multiple of 4."""

    tied: str
    untied: str
    odd: str


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(name: str, *, hidden: int, heads: int, kv_heads: int, tied: bool) -> str:
        torch.manual_seed(len(name))
        config = LlamaConfig(
            vocab_size=199,
            hidden_size=hidden,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=20,
            max_position_embeddings=512,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=tied,
            eos_token_id=2,
            bos_token_id=1,
        )
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for key, weight in model.named_parameters():  # default initialisation hides errors
                noise = torch.randn_like(weight)
                if "norm" in key:
                    weight.copy_(1 + 0.3 * noise)
                else:
                    weight.copy_(0.3 * noise if "bias" in key else 1.5 * noise / weight.shape[-1] ** 0.5)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        return str(folder)

    return Checkpoints(
        tied=make("tied", hidden=64, heads=4, kv_heads=2, tied=True),
        untied=make("untied", hidden=64, heads=4, kv_heads=4, tied=False),
        odd=make("odd", hidden=66, heads=6, kv_heads=2, tied=False),
    )


SMALL: Mapping[str, Any] = {
    "device": "toy",
    "max_model_len": 128,
    "max_num_batched_tokens": 16,
    "max_num_seqs": 4,
    "num_blocks": 20,  # of 8 tokens: five prompts do not fit at once
}
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, prompt_logprobs=0, logprobs=0)


def prompts() -> list[list[int]]:
    g = torch.Generator().manual_seed(7)
    return [torch.randint(3, 199, (size,), generator=g).tolist() for size in (1, 7, 16, 33, 71)]


def differences(folder: str, outputs: list[Any]) -> list[str]:
    """Where outputs differ from Transformers in float32, which is forced to our tokens: "" in the place of none."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for number, output in enumerate(outputs):
        prompt, tokens = output.prompt_token_ids, output.outputs[0].token_ids
        ids = torch.tensor([prompt + tokens])
        with torch.no_grad():
            theirs = model(ids).logits[0].double().log_softmax(-1)
        for place, token in enumerate(tokens, len(prompt)):
            row = theirs[place - 1]
            if row.argmax() != token and not row.max() - row[token] <= 1e-4:
                found.append(f"prompt {number}: token {place} is {token}, Transformers' {row.argmax()}")
        ours = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
        if output.outputs[0].finish_reason != "length" or len(ours) != ids.shape[1] - 1:
            found.append(f"prompt {number} ended early: {output.outputs[0].finish_reason}, {len(tokens)} tokens")
        for place, entry in enumerate(ours, 1):
            truth = float(theirs[place - 1, ids[0, place]])
            value = entry[int(ids[0, place])].logprob
            if not abs(value - truth) <= 1e-4:
                found.append(f"prompt {number}: log-probability {place} is {value}, Transformers' {truth}")
    return found


def outcome(llm: LLM) -> list[Any]:
    return llm.generate(prompts(), GREEDY)


@pytest.mark.parametrize("name", ["tied", "untied", "odd"])
@pytest.mark.parametrize(("block_size", "num_blocks", "budget"), [(8, 20, 16), (16, 10, 13), (16, 40, 64)])
def test_generation_equals_transformers(
    checkpoints: Checkpoints, name: str, block_size: int, num_blocks: int, budget: int
) -> None:
    folder = getattr(checkpoints, name)
    sizes = {"block_size": block_size, "num_blocks": num_blocks, "max_num_batched_tokens": budget}
    with LLM(folder, **{**SMALL, **sizes}) as llm:
        outputs = outcome(llm)
        again = outcome(llm)  # other rows, other blocks, which hold what the first left there
    assert differences(folder, outputs) == []
    assert differences(folder, again) == []
    assert [len(output.outputs[0].token_ids) for output in outputs] == [12] * 5
    assert not device_threads()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types_follow_the_core_on_the_host(checkpoints: Checkpoints, dtype: str) -> None:
    def first_logprobs(device: str) -> Tensor:
        settings = {**SMALL, "device": device, "dtype": dtype, "num_blocks": 40}
        with LLM(checkpoints.tied, plugins="toy", **{**settings, "block_size": 16}) as llm:
            outputs = llm.generate(prompts(), replace(GREEDY, max_tokens=1))
        return torch.tensor([next(iter(e.values())).logprob for o in outputs for e in o.prompt_logprobs[1:]])

    ours, theirs = first_logprobs("toy"), first_logprobs("cpu")
    assert (ours - theirs).abs().mean() < {"bfloat16": 0.1, "float16": 0.02}[dtype]


def test_draws_are_those_of_any_other_device(checkpoints: Checkpoints) -> None:
    sampling = SamplingParams(temperature=0.9, seed=11, max_tokens=10, ignore_eos=True)
    drawn = []
    for device in ("toy", "cpu"):
        with LLM(checkpoints.tied, plugins="toy", **{**SMALL, "device": device, "block_size": 16}) as llm:
            drawn.append([output.outputs[0].token_ids for output in llm.generate(prompts(), sampling)])
    assert drawn[0] == drawn[1]


def drawn_up(folder: str, **settings: Any) -> Blueprint:
    return draw_up(config_from({"model": folder, **SMALL, **settings}))


def choices(blueprint: Blueprint, num_tokens: int) -> dict[str, set[str]]:
    """Operation -> providers, in a step of so many tokens."""
    dims = Dims(T=num_tokens, S=1, R=1, max_q=num_tokens, max_k=num_tokens)
    found: dict[str, set[str]] = {}
    for bound in blueprint.forward.at(dims):
        found.setdefault(bound.call.op.name, set()).add(bound.kernel.provider)
    return found


def test_its_kernels_are_chosen_where_they_can_work(checkpoints: Checkpoints) -> None:
    blueprint = drawn_up(checkpoints.tied, max_num_batched_tokens=64)
    for num_tokens in (1, 5, 16, 17, 64):
        found = choices(blueprint, num_tokens)
        assert found["act_mul@1"] == {"toy.act_mul" if num_tokens <= 16 else "reference"}
        assert found["rms_norm@1"] == {"toy.rms_norm"}  # the first; all others stand behind an addition
        assert found["add_rms_norm@1"] == {"toy.add_rms_norm"}
        assert found["linear@1"] == {"toy.linear"}
        assert found["attn_plan@1"] == {"toy.attn_plan"} and found["attn_paged@1"] == {"toy.attention"}
        assert found["kv_write@1"] == {"reference"}
    assert not device_threads()  # an explanation needs no device


def test_a_size_outside_the_constraints_falls_back(checkpoints: Checkpoints) -> None:
    found = choices(drawn_up(checkpoints.odd), 16)
    assert found["rms_norm@1"] == found["add@1"] == {"reference"} and "add_rms_norm@1" not in found
    assert found["linear@1"] == {"toy.linear"}


def test_a_tied_matrix_has_one_layout_at_all_its_sites(checkpoints: Checkpoints) -> None:
    blueprint = drawn_up(checkpoints.tied)
    assert set(blueprint.forward.layouts.values()) == {COLUMNS.name}
    assert "head.weight" not in blueprint.forward.layouts
    by_site = {bound.call.site: bound.kernel.provider for bound in blueprint.forward.at(blueprint.sizes.bounds)}
    assert by_site["embedding"] == "toy.gather_rows" and by_site["head"] == "toy.linear"
    assert by_site["select.x"] == "reference"  # rows of an activation, which lies plain


def test_a_tied_matrix_stays_plain_when_one_site_cannot_read_columns(checkpoints: Checkpoints) -> None:
    blueprint = drawn_up(checkpoints.tied, kernels={"gather_rows": ("reference",)})
    assert blueprint.forward.layouts["embedding"] == "plain"
    by_site = {bound.call.site: bound.kernel.provider for bound in blueprint.forward.at(blueprint.sizes.bounds)}
    assert by_site["head"] == "portable" and by_site["layers.0.mlp.down"] == "toy.linear"


# ---- does the canary sing? ------------------------------------------------------------------------------------------


def survives(folder: str) -> bool:
    """Whether an engine gives right results. False on wrong ones and on any error that poison leads to."""
    llm = LLM(folder, **SMALL)
    try:
        return differences(folder, outcome(llm)) == []
    except Exception:
        return False
    finally:
        llm.close()


class NoWait:
    """An event that is recorded as it should be and never waited for."""

    def __init__(self, event: Any) -> None:
        self.record, self.done = event.record, event.done

    def wait(self) -> None:
        pass


def test_it_sings_when_results_are_read_without_waiting(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JITTER, "500")
    assert survives(checkpoints.tied)
    read: list[Tensor] = []
    honest = runner.PendingResults.result

    def impatient(self: runner.PendingResults) -> Any:
        read.append(self.arrays["ids"].clone())
        return honest(replace(self, event=NoWait(self.event)))

    monkeypatch.setattr(runner.PendingResults, "result", impatient)
    assert not survives(checkpoints.tied)
    assert any(len(ids) and is_poison(ids) for ids in read)


def test_it_sings_when_staging_is_reused_too_early(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JITTER, "500")
    monkeypatch.setattr("aphrodite.sizes._UPDATES", 8)  # words an upload: a prompt takes more than the ring has slots
    assert survives(checkpoints.tied)
    honest = staging.Ring.take

    def impatient(self: Any) -> Any:
        self._entries[self._next].used = False
        return honest(self)

    monkeypatch.setattr(staging.Ring, "take", impatient)
    assert not survives(checkpoints.tied)


def test_a_kernel_that_fails_in_a_step_is_the_error_of_that_step(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: object) -> None:
        raise FloatingPointError("boiling")

    llm = LLM(checkpoints.tied, **SMALL)
    monkeypatch.setattr("aphrodite_toy.linear._split_k", explode)
    with pytest.raises(DeviceError, match=r"toy\.linear at \S+ failed on toy: FloatingPointError: boiling"):
        outcome(llm)
    llm.close()
    assert not device_threads()
