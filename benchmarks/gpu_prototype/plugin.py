"""The prototype's hooks and platform: TorchPlatform, and graphs on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aphrodite.plugin import DeviceInfo, Limits, Platform, Registrar, hookimpl


@hookimpl
def aphrodite_probe() -> Sequence[DeviceInfo]:
    """Takes it on trust that there is a GPU: a benchmark's plugin."""
    return [DeviceInfo("proto", "a GPU through torch and Triton")]


@hookimpl
def aphrodite_platforms(reg: Registrar) -> None:
    """With and without graphs, by the device's name, would be two devices; the benchmark sets one flag instead."""
    reg.platform("proto", make_platform)


@hookimpl
def aphrodite_kernels(reg: Registrar) -> None:
    """All of kernels.py."""
    from gpu_prototype.kernels import KERNELS

    for kernel in KERNELS:
        reg.kernel(kernel)


def make_platform(info: DeviceInfo) -> Platform:
    """A fresh platform for one engine."""
    import torch

    from aphrodite.plugin import TorchDevice, TorchMemory, TorchPlatform

    device = torch.device("cuda:0")
    limits = Limits(
        kv_layouts=("hnd",),
        pad=True,
        steps_in_flight=1,
        max_logit_rows=64,
        kv_cap_bytes=16 << 30,
        dtypes=("bf16", "f16"),
    )
    return TorchPlatform(TorchDevice(info, device), TorchMemory(device), limits=limits, graphs=CudaGraphs())


class CudaGraphs:
    """Graphs protocol over torch's."""

    kind = "capture"

    def __init__(self) -> None:
        import torch

        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, fn: Callable[[], None], stream: Any) -> object:
        """Record what fn launches on the stream."""
        import torch

        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        own = torch.cuda.Stream(
            stream_id=stream.torch_stream.stream_id,
            device_index=stream.torch_stream.device_index,
            device_type=stream.torch_stream.device_type,
        )
        with torch.cuda.graph(graph, pool=self._pool, stream=own):
            fn()
        return graph

    def replay(self, handle: Any, stream: Any) -> None:
        """Launch it on the stream."""
        with stream.torch_stream:
            handle.replay()
