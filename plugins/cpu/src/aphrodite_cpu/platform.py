"""The platform: plain torch memory, and as many threads as the process may use."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from aphrodite.plugin import DeviceInfo, Limits, TorchDevice, TorchMemory, TorchPlatform
from aphrodite_cpu.machine import affinity, choose_threads, flags

_FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 and Arm names of hardware that multiplies bfloat16


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
    return TorchPlatform(HostDevice(info, host, threads.count), TorchMemory(host), limits=limits)
