"""The default Platform, for any device that torch knows: memory is torch.Tensor, streams are torch's own.

`TorchPlatform.on(torch.device(...), info)` is complete; a plugin overrides what its device does better. The core runs
on `TorchPlatform` itself, on the CPU, when no plugin is installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from aphrodite.platform.dtypes import torch_dtype
from aphrodite.platform.host_memory import host_memory
from aphrodite.platform.layout import DeviceTensor, KVLayout, KVView
from aphrodite.platform.spi import DeviceInfo, Event, Graphs, Limits, MemoryInfo, Stream

_ALIGN = 256


def _tensor(x: DeviceTensor) -> torch.Tensor:
    assert isinstance(x, torch.Tensor)
    return x


@dataclass(frozen=True)
class SyncStream:
    """The stream of a device whose work is done when the call returns."""

    handle: int = 0


@dataclass(frozen=True)
class SyncEvent:
    """An event of such a device: always passed."""

    def record(self, stream: Stream) -> None:
        pass

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        pass


@dataclass(frozen=True)
class TorchDevice:
    """Device protocol over torch's device-neutral API."""

    info: DeviceInfo
    torch_device: torch.device

    def activate(self) -> None:
        if self.torch_device.type != "cpu":
            torch.accelerator.set_device_index(self.torch_device.index or 0)

    def stream(self) -> Stream:
        return SyncStream() if self.torch_device.type == "cpu" else TorchStream(torch.Stream(self.torch_device))

    def event(self) -> Event:
        return SyncEvent() if self.torch_device.type == "cpu" else TorchEvent(torch.Event(self.torch_device))

    def synchronize(self) -> None:
        if self.torch_device.type != "cpu":
            torch.accelerator.synchronize(self.torch_device)

    def memory(self) -> MemoryInfo:
        if self.torch_device.type == "cpu":
            return host_memory()
        free, total = torch.accelerator.get_memory_info(self.torch_device)
        return MemoryInfo(free, total)

    def close(self) -> None:
        pass


class TorchStream:
    """A torch stream of an asynchronous device."""

    def __init__(self, stream: torch.Stream) -> None:
        self.torch_stream = stream
        self.handle = int(stream.native_handle)  # type: ignore[attr-defined]


class TorchEvent:
    """A torch event of an asynchronous device."""

    def __init__(self, event: torch.Event) -> None:
        self._event = event

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, TorchStream)
        self._event.record(stream.torch_stream)

    def done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()


@dataclass(frozen=True)
class TorchArena:
    """An arena in one uint8 tensor."""

    storage: torch.Tensor

    def tensor(self, offset_bytes: int, shape: Sequence[int], strides: Sequence[int], dtype: str) -> DeviceTensor:
        typed = self.storage[offset_bytes:]
        size = torch_dtype(dtype).itemsize
        typed = typed[: len(typed) // size * size].view(torch_dtype(dtype))
        return typed.as_strided(tuple(shape), tuple(strides), typed.storage_offset())


@dataclass(frozen=True)
class TorchMemory:
    """Memory protocol over torch tensors."""

    torch_device: torch.device

    def empty(self, shape: Sequence[int], dtype: str) -> DeviceTensor:
        return self._aligned(shape, dtype, torch.empty)

    def zeros(self, shape: Sequence[int], dtype: str) -> DeviceTensor:
        return self._aligned(shape, dtype, torch.zeros)

    def _aligned(self, shape: Sequence[int], dtype: str, make: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Memory at a multiple of 256 bytes, which the contract promises kernels; torch's CPU allocator gives 64."""
        num_bytes = math.prod(shape) * torch_dtype(dtype).itemsize
        raw = make(num_bytes + _ALIGN, dtype=torch.uint8, device=self.torch_device)
        start = -raw.data_ptr() % _ALIGN
        return raw[start : start + num_bytes].view(torch_dtype(dtype)).view(tuple(shape))

    def arena(self, num_bytes: int) -> TorchArena:
        return TorchArena(self._aligned((num_bytes,), "u8", torch.empty))

    def allocate_kv(
        self,
        layout: KVLayout,
        *,
        num_blocks: int,
        block_size: int,
        num_heads: int,
        head_dim: int,
        value_dim: int,
        dtype: str,
    ) -> KVView:
        axis = layout.axes.index("kv")

        def storage(dim: int, halves: int) -> torch.Tensor:
            shape = layout.shape(block=num_blocks, kv=halves, token=block_size, head=num_heads, dim=dim)
            tensor = self.zeros(shape, dtype)
            assert isinstance(tensor, torch.Tensor)
            return tensor

        if head_dim == value_dim:
            both = storage(head_dim, 2)
            return KVView(both.select(axis, 0), both.select(axis, 1), layout, block_size)
        return KVView(storage(head_dim, 1).select(axis, 0), storage(value_dim, 1).select(axis, 0), layout, block_size)

    def trim(self) -> None:
        if self.torch_device.type != "cpu":
            torch.accelerator.empty_cache()

    def host(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        pin = self.torch_device.type != "cpu"
        return torch.empty(tuple(shape), dtype=torch_dtype(dtype), pin_memory=pin)

    def upload(self, dst: DeviceTensor, src: torch.Tensor, stream: Stream) -> None:
        _copy(_tensor(dst), src, stream)

    def download(self, dst: torch.Tensor, src: DeviceTensor, stream: Stream) -> None:
        _copy(dst, _tensor(src), stream)


def _copy(dst: torch.Tensor, src: torch.Tensor, stream: Stream) -> None:
    if isinstance(stream, TorchStream):
        with stream.torch_stream:
            dst.copy_(src, non_blocking=True)
    else:
        dst.copy_(src)


@dataclass(frozen=True)
class TorchForms:
    """Torch forms run as they are, on the given stream."""

    def adapt(self, form: Callable[..., None], stream: Stream, name: str) -> Callable[..., None]:
        if not isinstance(stream, TorchStream):
            return form
        torch_stream = stream.torch_stream

        def on_stream(*args: object, **kwargs: object) -> None:
            with torch_stream:
                form(*args, **kwargs)

        return on_stream


@dataclass(frozen=True)
class TorchPlatform:
    """A Platform for a torch device. Override a part by passing it."""

    device: TorchDevice
    memory: TorchMemory
    forms: TorchForms = TorchForms()
    limits: Limits = field(default_factory=Limits)
    graphs: Graphs | None = None
    collectives: None = None
    compiler: None = None
    replay: None = None

    @classmethod
    def on(cls, torch_device: torch.device, info: DeviceInfo, limits: Limits | None = None) -> TorchPlatform:
        """The whole default platform of a torch device."""
        return cls(TorchDevice(info, torch_device), TorchMemory(torch_device), limits=limits or Limits())
