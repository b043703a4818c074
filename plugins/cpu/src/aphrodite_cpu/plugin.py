"""The hooks of the CPU plugin."""

from __future__ import annotations

from collections.abc import Sequence

import aphrodite_kernels_cpu as native
from aphrodite.plugin import DeviceInfo, Platform, Registrar, hookimpl, host_memory
from aphrodite_cpu.machine import model_name


@hookimpl
def aphrodite_probe() -> Sequence[DeviceInfo]:
    """The host is always there."""
    return [DeviceInfo("cpu", model_name(), native.isa(), host_memory().total_bytes)]


@hookimpl
def aphrodite_platforms(reg: Registrar) -> None:
    """Plain torch memory on the host."""
    reg.platform("cpu", make_platform, priority=10)  # above the core's own, below any accelerator


@hookimpl
def aphrodite_kernels(reg: Registrar) -> None:
    """Native kernels, compositions of torch's, and products of packed weights where torch has them."""
    from aphrodite_cpu.kernels import KERNELS
    from aphrodite_cpu.linear import LINEAR, ONEDNN, onednn_dtypes
    from aphrodite_cpu.moe import EXPERTS

    if onednn_dtypes():
        reg.weight_layout(ONEDNN)
        reg.kernel(LINEAR)
        reg.kernel(EXPERTS)
    for kernel in KERNELS:
        reg.kernel(kernel)


def make_platform(info: DeviceInfo) -> Platform:
    """A fresh platform for one engine."""
    from aphrodite_cpu.platform import make

    return make(info)
