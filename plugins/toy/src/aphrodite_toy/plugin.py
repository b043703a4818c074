"""The hooks of the toy plugin. Importing this module loads no torch: hooks and factories do, when they are called."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from aphrodite.plugin import DeviceInfo, Platform, Registrar, Unavailable, hookimpl, host_memory

JITTER = "APHRODITE_TOY_JITTER_US"


@hookimpl
def aphrodite_probe(env: Mapping[str, str]) -> Sequence[DeviceInfo] | Unavailable:
    """Host memory is everywhere, so the device is too, unless its one setting cannot be read."""
    try:
        jitter_s(env)
    except ValueError as error:
        return Unavailable(str(error), f"unset {JITTER}, or set it to 100")
    return [DeviceInfo("toy", "host memory behind a queue", total_memory_bytes=host_memory().total_bytes)]


@hookimpl
def aphrodite_platforms(reg: Registrar) -> None:
    """One platform. Its priority is below 0: nobody gets it who did not ask for it by name."""
    reg.platform("toy", make_platform, priority=-1)


@hookimpl
def aphrodite_kernels(reg: Registrar) -> None:
    """A KV layout, a weight layout, and the kernels that read them."""
    from aphrodite_toy.kernels import KERNELS
    from aphrodite_toy.layouts import COLUMNS, THDKB

    reg.kv_layout(THDKB)
    reg.weight_layout(COLUMNS)
    for kernel in KERNELS:
        reg.kernel(kernel)


def make_platform(info: DeviceInfo) -> Platform:
    """A fresh platform for one engine, with a thread, a queue and memory of its own."""
    from aphrodite_toy.platform import ToyPlatform

    return ToyPlatform.make(info, jitter_s(os.environ))


def jitter_s(env: Mapping[str, str]) -> float:
    """Mean delay before each piece of work, from APHRODITE_TOY_JITTER_US. ValueError if that is no such number."""
    text = env.get(JITTER) or "100"
    try:
        microseconds = float(text)
    except ValueError:
        microseconds = math.nan
    if not 0 <= microseconds < math.inf:
        raise ValueError(f"{JITTER} must be a number of microseconds >= 0, got {text!r}")
    return microseconds * 1e-6
