"""The hooks of the CPU plugin."""

from __future__ import annotations

import platform as host
from collections.abc import Sequence
from pathlib import Path

import aphrodite_kernels_cpu as native
from aphrodite.plugin import DeviceInfo, Limits, Platform, Registrar, hookimpl, host_memory

_FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 and Arm names of hardware that multiplies bfloat16


@hookimpl
def aphrodite_probe() -> Sequence[DeviceInfo]:
    """The host is always there."""
    return [DeviceInfo("cpu", _model_name(), native.isa(), host_memory().total_bytes)]


@hookimpl
def aphrodite_platforms(reg: Registrar) -> None:
    """Plain torch memory on the host."""
    reg.platform("cpu", make_platform, priority=10)  # above the core's own, below any accelerator


@hookimpl
def aphrodite_kernels(reg: Registrar) -> None:
    """Native kernels, attention on torch's fused one, and products of packed weights where torch has them."""
    from aphrodite_cpu.kernels import KERNELS, LINEAR, ONEDNN, onednn_dtypes

    if onednn_dtypes():
        reg.weight_layout(ONEDNN)
        reg.kernel(LINEAR)
    for kernel in KERNELS:
        reg.kernel(kernel)


def make_platform(info: DeviceInfo) -> Platform:
    """A fresh platform for one engine."""
    import torch

    from aphrodite.plugin import TorchPlatform

    slow = "and this processor has no instructions for it"
    limits = Limits(
        block_sizes=(16, 32, 64, 128),
        max_logit_rows=64,
        kv_share=0.5,
        kv_cap_bytes=4 << 30,
        slow_dtypes={"f16": slow} if _FAST_BF16 & _flags() else {"bf16": slow, "f16": slow},
    )
    return TorchPlatform.on(torch.device("cpu"), info, limits)


def _flags() -> set[str]:
    """What /proc/cpuinfo says the processor can do; empty where there is no such file."""
    return set(_cpuinfo("flags").split()) | set(_cpuinfo("Features").split())


def _model_name() -> str:
    return _cpuinfo("model name") or host.machine()


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
