"""The platform: plain torch memory, and as many threads as the process may use."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from aphrodite.plugin import (
    ITEMSIZE,
    DeviceInfo,
    DeviceTensor,
    Limits,
    TorchDevice,
    TorchMemory,
    TorchPlatform,
    torch_dtype,
)
from aphrodite_cpu.machine import affinity, choose_threads, flags

_FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 and Arm names of hardware that multiplies bfloat16
_LARGE = 1 << 20  # bytes from which memory is mapped; it begins with a page, so aligned better than promised


@dataclass(frozen=True)
class HostDevice(TorchDevice):
    """The host's processor, computing on so many threads."""

    num_threads: int = 1

    def activate(self) -> None:
        """Set the number of threads, if torch has another.

        It is the calling thread's own. Threads of the application that have computed before keep theirs; torch gives
        those that compute for the first time later what was set last.
        """
        if torch.get_num_threads() != self.num_threads:
            torch.set_num_threads(self.num_threads)


@dataclass(frozen=True)
class HostMemory(TorchMemory):
    """Memory straight from the system, for what is large.

    Zeros cost nothing until they are touched, where torch.zeros writes all of them at once: a cache of 4 GiB would take
    seconds of every start. And what is let go of, such as the plain form of a matrix that was packed, goes back to the
    system, where the allocator would keep it for requests that never come.
    """

    def empty(self, shape: Sequence[int], dtype: str) -> DeviceTensor:
        mapped = self._mapped(shape, dtype)
        return super().empty(shape, dtype) if mapped is None else mapped

    def zeros(self, shape: Sequence[int], dtype: str) -> DeviceTensor:
        mapped = self._mapped(shape, dtype)
        return super().zeros(shape, dtype) if mapped is None else mapped

    def _mapped(self, shape: Sequence[int], dtype: str) -> torch.Tensor | None:
        num_bytes = math.prod(shape) * ITEMSIZE[dtype]
        if num_bytes < _LARGE:
            return None
        pages = mmap.mmap(-1, num_bytes)  # zeros, and unmapped with the last tensor over them
        return torch.frombuffer(pages, dtype=torch_dtype(dtype)).view(tuple(shape))


def make(info: DeviceInfo) -> TorchPlatform:
    """A fresh platform for one engine. UsageError if the environment asks for a number of threads that is none."""
    threads = choose_threads(os.environ, allowed=affinity(), torchs=torch.get_num_threads())
    slow = "and this processor has no instructions for it"
    limits = Limits(
        block_sizes=(16, 32, 64, 128),
        max_logit_rows=64,
        kv_share=0.5,
        kv_cap_bytes=4 << 30,
        slow_dtypes={"f16": slow} if _FAST_BF16 & flags() else {"bf16": slow, "f16": slow},
        notes=(f"{threads.count} {'thread' if threads.count == 1 else 'threads'} ({threads.reason})",),
    )
    host = torch.device("cpu")
    return TorchPlatform(HostDevice(info, host, threads.count), HostMemory(host), limits=limits)
