"""Loading plugins: read, probe, register, validate, freeze. Each in its own try; a broken one is a line in a report."""

from __future__ import annotations

import importlib.metadata as metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pluggy

from aphrodite.discovery import hooks
from aphrodite.discovery.registry import Registrar, Registry
from aphrodite.errors import PluginError, is_interrupt, one_line
from aphrodite.ops.schema import Schema
from aphrodite.platform.spi import DeviceInfo, Limits, Unavailable

_RESERVED = frozenset({"core", "none", "auto"})  # as names of plugins


@dataclass(frozen=True)
class Found:
    """A plugin as its distribution's metadata describes it, before anything of it is imported."""

    name: str
    entry_point: metadata.EntryPoint
    distribution: str
    version: str
    contract: str | None


@dataclass(frozen=True)
class PluginReport:
    """What became of one plugin.

    state    ready, unavailable (no device here), disabled (by the user), incompatible (another contract), failed
    reason   why, in a sentence; hint, what the user can do
    dropped  (kernel, reason) of kernels that disagree with the contract
    notes    what it offers that this core does not use
    """

    name: str
    distribution: str
    version: str
    contract: str | None
    state: str
    reason: str = ""
    hint: str = ""
    devices: tuple[DeviceInfo, ...] = ()
    kernels: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Discovery:
    """The frozen registry and a report for every plugin found."""

    registry: Registry
    reports: tuple[PluginReport, ...]


def find() -> list[Found]:
    """Plugins installed here, by name. Reads metadata only."""
    contracts = {(_owner(ep)[0], ep.name): ep.value for ep in metadata.entry_points(group=hooks.CONTRACT_GROUP)}
    found = []
    for ep in metadata.entry_points(group=hooks.PLUGIN_GROUP):
        distribution, version = _owner(ep)
        found.append(Found(ep.name, ep, distribution, version, contracts.get((distribution, ep.name))))
    return sorted(found, key=lambda item: (item.name, item.distribution))


def _owner(ep: metadata.EntryPoint) -> tuple[str, str]:
    return (ep.dist.name, ep.dist.version) if ep.dist else ("unknown", "0")


def discover(
    schemas: Mapping[str, Schema],
    *,
    policy: str,
    env: Mapping[str, str],
    found: Iterable[Found] | None = None,
) -> Discovery:
    """Load all plugins that the policy allows.

    schemas  of the operations and composites of this core
    policy   "" all; "none" none; else a comma list: names allow only those, "-name" denies
    env      environment variables handed to probes
    found    the plugins to load, default those installed
    """
    allowed = _policy(policy)
    registry = Registry()
    reports: list[PluginReport] = []
    for item in find() if found is None else found:
        report = PluginReport(item.name, item.distribution, item.version, item.contract, "ready")
        if item.name in _RESERVED or item.name.startswith("-") or "," in item.name:
            reason, hint = f"the name {item.name!r} means something else", "its author names the entry point anew"
            reports.append(replace(report, state="failed", reason=reason, hint=hint))
        elif any(other.name == item.name and other.state != "disabled" for other in reports):
            reason, hint = (
                f"another distribution brings a plugin named {item.name!r}",
                "uninstall one of the two",
            )
            reports.append(replace(report, state="failed", reason=reason, hint=hint))
        elif not allowed(item.name):
            reports.append(replace(report, state="disabled", reason=f"by the plugin policy {policy!r}"))
        elif item.contract != hooks.CONTRACT:
            reports.append(_incompatible(report))
        else:
            loaded, registry = _load(item, report, registry, schemas, env)
            reports.append(loaded)
    return Discovery(registry, tuple(reports))


def _policy(text: str) -> Any:
    names = [name.strip() for name in text.split(",") if name.strip()]
    deny = {name[1:] for name in names if name.startswith("-")}
    allow = {name for name in names if not name.startswith("-")}
    return lambda name: name not in deny and (not allow or (name in allow and "none" not in allow))


def _incompatible(report: PluginReport) -> PluginReport:
    core = hooks.CONTRACT.removeprefix("v").replace("_", ".")
    if report.contract is None:
        reason = f"declares no contract; this core speaks {core}"
        hint = f'its author adds an entry point {report.name} = "{hooks.CONTRACT}" in {hooks.CONTRACT_GROUP}'
    else:
        theirs = report.contract.removeprefix("v").replace("_", ".")
        if theirs == core:  # 0.1 for v0_1
            theirs, core = repr(report.contract), repr(hooks.CONTRACT)
        reason = f"speaks contract {theirs}, this core speaks {core}"
        hint = f"install a {report.distribution} made for contract {core}, or the aphrodite-core that speaks {theirs}"
    return replace(report, state="incompatible", reason=reason, hint=hint)


def _load(
    item: Found,
    report: PluginReport,
    registry: Registry,
    schemas: Mapping[str, Schema],
    env: Mapping[str, str],
) -> tuple[PluginReport, Registry]:
    """Probe and register one plugin. Whatever it raises, the registry that comes back is whole."""
    phase = "import"
    try:
        caller = _Hooks(item.name, item.entry_point.load())
        phase = "aphrodite_probe"
        probed = _probe(caller, env)
        if isinstance(probed, Unavailable):
            return replace(report, state="unavailable", reason=probed.reason, hint=probed.hint), registry
        phase = "aphrodite_platforms"
        reg = Registrar(item.name, probed, schemas)
        caller.call("aphrodite_platforms", reg=reg)
        if missing := sorted({i.device for i in probed} - {entry.info.device for entry in reg.platforms}):
            raise PluginError(f"no platform registered for {', '.join(missing)}", subject=item.name)
        phase = "aphrodite_limits"
        for index, entry in enumerate(reg.platforms):
            if (limits := caller.call("aphrodite_limits", device=entry.info)) is not None:
                if not isinstance(limits, Limits):
                    raise PluginError(f"must return Limits, got {type(limits).__name__}", subject=item.name)
                reg.platforms[index] = replace(entry, limits=limits)
        phase = "aphrodite_kernels"
        for info in probed:
            reg.device = info
            caller.call("aphrodite_kernels", reg=reg, device=info)
        phase = "register"
        grown = registry.plus(reg)
    except BaseException as error:  # SystemExit, and the panics of native libraries, are this plugin's own affair too
        if is_interrupt(error):
            raise
        reason = f"{phase}: {_last_line(error)}"
        return replace(report, state="failed", reason=reason), registry
    providers = tuple(sorted({kernel.provider for more in reg.kernels.values() for kernel in more}))
    notes = tuple(f"{name} is provisional: this core does not call it" for name in caller.provisional())
    loaded = replace(report, devices=probed, kernels=providers, dropped=tuple(reg.dropped), notes=notes)
    return loaded, grown


def _probe(caller: _Hooks, env: Mapping[str, str]) -> tuple[DeviceInfo, ...] | Unavailable:
    answer = caller.call("aphrodite_probe", env=dict(env))
    if isinstance(answer, Unavailable):
        return answer
    if not isinstance(answer, (list, tuple)) or not all(isinstance(info, DeviceInfo) for info in answer):
        raise PluginError(f"must return a list of DeviceInfo or Unavailable, got {answer!r}", subject=caller.name)
    for info in answer:
        if not all(isinstance(text, str) for text in (info.device, info.name, info.arch)) or not info.device:
            raise PluginError(f"a DeviceInfo has texts as device, name and arch, got {info!r}", subject=caller.name)
        if type(info.total_memory_bytes) is not int or info.total_memory_bytes < 0:
            raise PluginError(f"a DeviceInfo counts bytes, at least 0, got {info!r}", subject=caller.name)
    return tuple(answer) if answer else Unavailable("the probe found no device")


def _last_line(error: BaseException) -> str:
    try:
        text = str(error).strip().splitlines()
    except Exception:
        text = []  # an error that cannot even be printed
    return f"{type(error).__name__}: {one_line(text[-1])}" if text else type(error).__name__


class _Hooks:
    """One plugin's hooks behind a pluggy manager of its own, so that no plugin's error reaches another's call."""

    def __init__(self, name: str, plugin: object) -> None:
        self.name = name
        self._manager = pluggy.PluginManager("aphrodite")
        self._manager.add_hookspecs(hooks)
        self._manager.register(plugin, name=name)
        self._manager.check_pending()
        for required in ("aphrodite_probe", "aphrodite_platforms"):
            if not self._implements(required):
                raise PluginError(f"{required} is not implemented (is it marked @hookimpl?)", subject=name)

    def _implements(self, hook: str) -> bool:
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    def provisional(self) -> list[str]:
        return sorted(name for name in hooks.PROVISIONAL if self._implements(name))

    def call(self, hook: str, **arguments: object) -> Any:
        results = getattr(self._manager.hook, hook)(**arguments)
        return results[0] if results else None
