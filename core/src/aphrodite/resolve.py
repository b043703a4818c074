"""Finding the plugins, the device, the model and its type: every "auto" becomes a value with its reason, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from aphrodite.config import env
from aphrodite.config.engine import AUTO, DUMMY, EngineConfig
from aphrodite.discovery.discover import Discovery, discover
from aphrodite.discovery.registry import PlatformEntry
from aphrodite.errors import ModelError, UsageError
from aphrodite.formats.scheme import require_plain
from aphrodite.models.config import HFConfig
from aphrodite.models.fallback.spec import ModuleSpec
from aphrodite.models.registry import FAMILIES, decoder_spec, page_of
from aphrodite.models.spec import DecoderSpec
from aphrodite.ops.table import COMPOSITES, OPS
from aphrodite.platform import dtypes
from aphrodite.platform.host_memory import host_memory
from aphrodite.platform.spi import DeviceInfo, Limits, Platform
from aphrodite.weights.hub import Fetch, locate

CORE = "core"


@dataclass
class Reasons:
    """Why each setting has its value, in the order they were settled."""

    by_name: dict[str, str] = field(default_factory=dict)

    def say(self, name: str, reason: str) -> None:
        self.by_name[name] = reason


def find_plugins(config: EngineConfig) -> Discovery:
    """All plugins that the config and the environment allow, loaded."""
    schemas = {name: op.schema for name, op in OPS.items()} | {name: c.schema for name, c in COMPOSITES.items()}
    known = sorted({name.partition("@")[0] for name in schemas})
    if unknown := sorted(set(config.device.kernels) - set(known)):
        raise UsageError(
            f"kernels: there is no operation {unknown[0]!r}; there are {', '.join(known)}", subject="kernels"
        )
    return discover(schemas, policy=config.device.plugins, env=env.everything())


def choose_device(config: EngineConfig, found: Discovery, reasons: Reasons) -> PlatformEntry:
    """The platform that the config asks for, or the best there is; the core's own CPU platform when there is none."""
    wanted = config.device.device
    entries = [*found.registry.platforms, _core_platform()]
    if wanted == AUTO:
        entry = max((e for e in entries if e.priority >= 0), key=lambda e: e.priority)
        reasons.say("device", f"{entry.info.device}: the highest priority of those ready, of plugin {entry.plugin}")
        return entry
    named = [entry for entry in entries if entry.info.device == wanted]
    if named:
        entry = max(named, key=lambda e: e.priority)
        reasons.say("device", f"{wanted}: asked for, of plugin {entry.plugin}")
        return entry
    absent = [f"{r.name} is {r.state} ({r.reason})" for r in found.reports if r.state != "ready"]
    ready = ", ".join(dict.fromkeys(entry.info.device for entry in entries))
    raise UsageError(
        f"device {wanted!r} is not ready; ready: {ready}" + ("; " + "; ".join(absent) if absent else ""),
        subject="device",
    )


def _core_platform() -> PlatformEntry:
    """The core alone: plain torch on the CPU, torch forms for every operation."""
    info = DeviceInfo("cpu", "the host's processor, torch forms only", total_memory_bytes=host_memory().total_bytes)

    def make(info: DeviceInfo) -> Platform:
        import torch

        from aphrodite.platform.torch_platform import TorchPlatform

        limits = Limits(max_logit_rows=64, kv_share=0.5, kv_cap_bytes=4 << 30)
        return TorchPlatform.on(torch.device("cpu"), info, limits)

    return PlatformEntry(CORE, info, make, priority=0)


def read_model(
    config: EngineConfig, reasons: Reasons, *, weights: bool = False, show_bars: bool = False
) -> tuple[Path, HFConfig, DecoderSpec | ModuleSpec]:
    """The model's folder, config and network. ModelError if it cannot be run.

    weights    whether weights are to be in the folder too, when it comes from the hub; then
    show_bars  as for Fetch
    """
    model = config.model
    fetch = Fetch(
        model.revision,
        cache=Path(model.download_dir).expanduser() if model.download_dir else None,
        offline=model.offline,
        weights=weights and model.load_format != DUMMY,
        show_bars=show_bars,
    )
    folder = locate(model.model, fetch)
    if folder != Path(model.model):
        reasons.say("model", f"{folder}: the folder of {model.model}")
    hf = HFConfig.read(folder)
    require_plain(hf.data, hf.where)
    page = page_of(hf)
    if page is not None:
        reasons.say("network", f"{page}: its own page")
        return folder, hf, decoder_spec(hf)
    architecture = hf.data["architectures"][0]
    spec = ModuleSpec.read(hf, architecture, ", ".join(sorted(FAMILIES)))
    reasons.say(
        "network",
        f"{architecture}: modules of Transformers {spec.found.version} over our paged attention; it has no page",
    )
    return folder, hf, spec


def choose_dtype(config: EngineConfig, hf: HFConfig, limits: Limits, reasons: Reasons) -> str:
    """The type of weights and activations."""
    if config.model.dtype != AUTO:
        dtype = dtypes.parse(config.model.dtype)
        if dtype not in limits.dtypes:
            raise UsageError(
                f"dtype {config.model.dtype!r} is not one this device computes in: {', '.join(limits.dtypes)}",
                subject="dtype",
            )
        reasons.say("dtype", f"{dtype}: asked for")
        return dtype
    stored = hf.get("dtype", str, "") or hf.get("torch_dtype", str, "float32")
    try:
        dtype = dtypes.parse(stored)
    except UsageError:
        raise ModelError(f"{hf.where}: dtype {stored!r} is unknown; pass dtype=", subject="dtype") from None
    if dtype in limits.slow_dtypes:
        reasons.say("dtype", f"f32: the checkpoint is {dtype}, {limits.slow_dtypes[dtype]}")
        return "f32"
    if dtype not in limits.dtypes:
        reasons.say("dtype", f"{limits.dtypes[0]}: the checkpoint is {dtype}, which this device does not compute in")
        return limits.dtypes[0]
    reasons.say("dtype", f"{dtype}: the checkpoint's own")
    return dtype
