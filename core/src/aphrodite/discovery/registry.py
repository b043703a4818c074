"""What plugins have registered: platforms, kernels, layouts. Filled in transactions, then frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aphrodite.errors import PluginError
from aphrodite.ops.constraints import GLOBAL_KEYS, C
from aphrodite.ops.kernel import Flag, Kernel
from aphrodite.ops.op import unknown_arguments
from aphrodite.platform.layout import HND, LATENT, NHD, PLAIN, KVLayout, WeightLayout
from aphrodite.platform.spi import DeviceInfo, Limits, Platform

if TYPE_CHECKING:
    from aphrodite.ops.schema import Schema

PlatformFactory = Callable[[DeviceInfo], Platform]


@dataclass(frozen=True)
class PlatformEntry:
    """A registered platform. device="auto" takes the highest priority; below 0 is never taken by itself."""

    plugin: str
    info: DeviceInfo
    factory: PlatformFactory
    priority: int
    limits: Limits | None = None


@dataclass
class Registrar:
    """What a hook is given to register with; everything is kept apart until the whole plugin has succeeded.

    Methods raise PluginError at once for what can never be right (a foreign provider name, a duplicate). Kernels that
    disagree with their operation's schema are dropped alone and reported.
    """

    plugin: str
    devices: tuple[DeviceInfo, ...]
    schemas: Mapping[str, Schema]
    device: DeviceInfo | None = None
    platforms: list[PlatformEntry] = field(default_factory=list)
    kernels: dict[str, list[Kernel]] = field(default_factory=dict)
    kv_layouts: dict[str, KVLayout] = field(default_factory=dict)
    weight_layouts: dict[str, WeightLayout] = field(default_factory=dict)
    dropped: list[tuple[str, str]] = field(default_factory=list)

    def platform(self, device: str, factory: PlatformFactory, *, priority: int = 100) -> None:
        """A platform for the probed device of that name. factory(info) makes a fresh one for each engine."""
        given: tuple[Any, Any] = (factory, priority)  # from outside: types are a promise, not a fact
        if not callable(given[0]) or type(given[1]) is not int:
            raise PluginError(
                f"platform for {device!r} needs a callable factory and an integer priority, got {given}",
                subject=self.plugin,
            )
        infos = [info for info in self.devices if info.device == device]
        if not infos:
            known = ", ".join(info.device for info in self.devices)
            raise PluginError(f"platform for {device!r}, but the probe named {known}", subject=self.plugin)
        self.platforms.append(PlatformEntry(self.plugin, infos[0], factory, priority))

    def kernel(self, kernel: Kernel) -> None:
        """A kernel for the device at hand, named "<plugin>.<name>"."""
        assert self.device is not None, "kernels are registered from aphrodite_kernels"
        if reason := _malformed(kernel):
            self.dropped.append((str(getattr(kernel, "provider", kernel)), reason))
            return
        if not kernel.provider.startswith(f"{self.plugin}."):
            raise PluginError(f"provider {kernel.provider!r} must start with '{self.plugin}.'", subject=self.plugin)
        mine = self.kernels.setdefault(self.device.device, [])
        if any(other.provider == kernel.provider for other in mine):
            raise PluginError(f"provider {kernel.provider!r} is registered twice", subject=self.plugin)
        if reason := _disagreement(kernel, self.schemas):
            self.dropped.append((kernel.provider, reason))
        else:
            mine.append(kernel)

    def kv_layout(self, layout: KVLayout) -> None:
        """A KV layout beside nhd, hnd and latent; its name must be new."""
        self._new(layout.name, self.kv_layouts, "KV layout", ("nhd", "hnd", "latent"))
        self.kv_layouts[layout.name] = layout

    def weight_layout(self, layout: WeightLayout) -> None:
        """A weight layout beside plain; its name must be new."""
        self._new(layout.name, self.weight_layouts, "weight layout", ("plain",))
        self.weight_layouts[layout.name] = layout

    def _new(self, name: str, mine: Mapping[str, object], what: str, core: tuple[str, ...]) -> None:
        if name in core or name in mine:
            raise PluginError(f"{what} {name!r} is already registered", subject=self.plugin)


def _malformed(kernel: Any) -> str | None:
    """Why something is no Kernel that can be looked at, or None."""
    if not isinstance(kernel, Kernel):
        return f"must be a Kernel, got {type(kernel).__name__}"
    for name, kind in (("op", str), ("provider", str), ("where", C), ("tier", int), ("flags", Flag)):
        if not isinstance(value := getattr(kernel, name), kind):
            return f"its {name} must be {kind.__name__}, got {value!r}"
    for name in ("bind", "fn", "workspace"):
        if (value := getattr(kernel, name)) is not None and not callable(value):
            return f"its {name} must be callable, got {value!r}"
    return None


def _disagreement(kernel: Kernel, schemas: Mapping[str, Schema]) -> str | None:
    """Why a kernel cannot belong to its operation, or None."""
    schema = schemas.get(kernel.op)
    if schema is None:
        name, _, version = kernel.op.partition("@")
        versions = sorted(known for known in schemas if known.partition("@")[0] == name)
        near = f"; this core has {', '.join(versions)}" if versions else ""
        return f"operation {kernel.op!r} is unknown to this core{near}" + ("" if version else " (no @version)")
    if (kernel.bind is None) == (kernel.fn is None):
        return "exactly one of bind and fn must be given"
    if kernel.fn is not None and (reason := unknown_arguments(kernel.fn, schema)):
        return f"its function {reason}"
    dims = {dim.partition("+")[0] for dim in schema.dims}
    names = GLOBAL_KEYS | dims | {"A", "X"} | {attr.name for attr in schema.attrs}
    if strange := sorted(kernel.where.keys() - names):
        return f"constraint on {', '.join(strange)}; {kernel.op} has {', '.join(sorted(names))}"
    if unknown := sorted((kernel.where.features or frozenset()) - schema.features):
        return f"feature {', '.join(unknown)}; {kernel.op} has {', '.join(sorted(schema.features)) or 'none'}"
    return None


@dataclass(frozen=True)
class Registry:
    """Everything registered, read-only. Kernels are by device string."""

    platforms: tuple[PlatformEntry, ...] = ()
    kernels: Mapping[str, tuple[Kernel, ...]] = field(default_factory=dict)
    kv_layouts: Mapping[str, KVLayout] = field(default_factory=lambda: {x.name: x for x in (NHD, HND, LATENT)})
    weight_layouts: Mapping[str, WeightLayout] = field(default_factory=lambda: {PLAIN.name: PLAIN})

    def plus(self, added: Registrar) -> Registry:
        """A registry with a plugin's entries as well. PluginError if a name is taken by another plugin."""
        for what, mine, theirs in (
            ("KV layout", self.kv_layouts, added.kv_layouts),
            ("weight layout", self.weight_layouts, added.weight_layouts),
        ):
            if taken := sorted(set(mine) & set(theirs)):
                raise PluginError(f"{what} {', '.join(taken)} belongs to another plugin", subject=added.plugin)
        kernels = dict(self.kernels)
        for device, more in added.kernels.items():
            kernels[device] = (*kernels.get(device, ()), *more)
        return Registry(
            (*self.platforms, *added.platforms),
            kernels,
            {**self.kv_layouts, **added.kv_layouts},
            {**self.weight_layouts, **added.weight_layouts},
        )
