"""The hooks a plugin may implement. An implementation may take fewer arguments than the specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

from aphrodite.platform.spi import DeviceInfo, Limits, Unavailable

if TYPE_CHECKING:
    from aphrodite.discovery.registry import Registrar

CONTRACT = "v0_1"
CONTRACT_GROUP = "aphrodite.contract"
PLUGIN_GROUP = "aphrodite.plugins"
PROVISIONAL = frozenset({"aphrodite_weight_formats", "aphrodite_models"})

hookspec = pluggy.HookspecMarker("aphrodite")
hookimpl = pluggy.HookimplMarker("aphrodite")


@hookspec
def aphrodite_probe(env: Mapping[str, str]) -> Sequence[DeviceInfo] | Unavailable:
    """Which devices this plugin can drive here, or why none.

    env  a copy of the process's environment variables
    Cheap (under 2 s), imports no torch, initialises nothing. Required.
    """
    raise NotImplementedError


@hookspec
def aphrodite_platforms(reg: Registrar) -> None:
    """Register platforms: `reg.platform(device, factory)`, one for each device string the probe named. Required."""


@hookspec
def aphrodite_kernels(reg: Registrar, device: DeviceInfo) -> None:
    """Register kernels, KV layouts and weight layouts for one of the devices the probe named; torch may be imported."""


@hookspec
def aphrodite_limits(device: DeviceInfo) -> Limits:
    """The device's Limits, in place of those its Platform carries."""
    raise NotImplementedError


@hookspec
def aphrodite_weight_formats(reg: Registrar) -> None:
    """Provisional: checkpoint formats. This core does not call it, and says so in `aphrodite plugins`."""


@hookspec
def aphrodite_models(reg: Registrar) -> None:
    """Provisional: model families. This core does not call it, and says so in `aphrodite plugins`."""
