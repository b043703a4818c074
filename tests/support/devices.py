"""The devices that engine tests run on. Both must be there: a skipped device would be a hole nobody sees."""

from __future__ import annotations

import functools
from importlib.metadata import entry_points

import pytest

from aphrodite.config.engine import DeviceConfig, EngineConfig
from aphrodite.resolve import Reasons, choose_device, find_plugins

DEVICES = ("cpu", "toy")


def require(device: str) -> str:
    """The device's name; the test fails if its plugin is not installed. The core itself serves "cpu" without one."""
    if device != "cpu" and device not in {point.name for point in entry_points(group="aphrodite.plugins")}:
        pytest.fail(f"the plugin {device!r} is not installed: pip install ./plugins/{device}")
    return device


@functools.cache
def block_size(device: str) -> int:
    """Tokens that a KV block has on the device unless one asks for another size."""
    config = EngineConfig(device=DeviceConfig(device=device))
    entry = choose_device(config, find_plugins(config), Reasons())
    limits = entry.limits or entry.factory(entry.info).limits
    return limits.block_sizes[0]
