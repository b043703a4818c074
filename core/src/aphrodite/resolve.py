"""Turning a config, a model and a device into numbers: every "auto" becomes a value with its reason, once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from aphrodite.config import env
from aphrodite.config.engine import AUTO, DUMMY, EngineConfig
from aphrodite.discovery.discover import Discovery, discover
from aphrodite.discovery.registry import PlatformEntry
from aphrodite.errors import CapacityError, ModelError, UsageError
from aphrodite.formats.scheme import require_plain
from aphrodite.kv.spec import CacheGroup, KVPlan, plan_kv
from aphrodite.models.config import HFConfig
from aphrodite.models.fallback.spec import ModuleSpec
from aphrodite.models.registry import FAMILIES, decoder_spec, page_of
from aphrodite.models.spec import DecoderSpec
from aphrodite.ops.kernel import Dims
from aphrodite.ops.table import COMPOSITES, OPS
from aphrodite.platform import dtypes
from aphrodite.platform.host_memory import host_memory
from aphrodite.platform.spi import DeviceInfo, Limits, Platform
from aphrodite.weights.hub import Fetch, locate

_UPDATES = 8192  # words of row state that one upload holds; longer prompts take several
_MOST_IN_A_STEP = 1 << 20  # the buffers of a larger step would fit nowhere
_ROW_SHARE = 16  # of the free memory, the part that tokens in the row state may take when the length is ours to choose
CORE = "core"


@dataclass
class Reasons:
    """Why each setting has its value, in the order they were settled."""

    by_name: dict[str, str] = field(default_factory=dict)

    def say(self, name: str, reason: str) -> None:
        self.by_name[name] = reason


@dataclass(frozen=True)
class Sizes:
    """An engine's sizes."""

    kv: KVPlan
    max_model_len: int
    bounds: Dims
    steps_in_flight: int

    @property
    def table_width(self) -> int:
        """Blocks that one sequence may have."""
        return -(-self.max_model_len // self.kv.block_size)


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


def choose_sizes(
    config: EngineConfig,
    spec: DecoderSpec | ModuleSpec,
    groups: tuple[CacheGroup, ...],
    *,
    weight_bytes: int,
    free_bytes: int,
    limits: Limits,
    reasons: Reasons,
) -> Sizes:
    """The cache's size, the longest sequence, the largest step. CapacityError or UsageError if they cannot agree."""
    scheduler, cache = config.scheduler, config.cache
    if cache.num_blocks is not None and cache.kv_cache_memory_bytes is not None:
        raise UsageError(
            "num_blocks and kv_cache_memory_bytes are two ways to say one thing: pass one",
            subject="num_blocks",
        )
    longest = config.model.max_model_len
    limit = spec.longest
    if longest is not None and longest > limit.num_tokens:
        if not limit.may_be_raised:
            raise UsageError(
                f"max_model_len must be at most {limit.num_tokens}, {limit.why}, got {longest}", subject="max_model_len"
            )
        reasons.say(
            "rope",
            f"the dynamic scaling is that of {longest} tokens, max_model_len, for every sequence, however short: the "
            "cache cannot hold keys that turn with the length",
        )
    block_size = cache.block_size or limits.block_sizes[0]
    if block_size not in limits.block_sizes:
        raise UsageError(
            f"block_size must be one of {', '.join(map(str, limits.block_sizes))} on this device, got {block_size}",
            subject="block_size",
        )
    reasons.say("block_size", f"{block_size}: " + ("asked for" if cache.block_size else "the device's best"))
    kv = _size_kv(config, spec, groups, block_size, weight_bytes, free_bytes, limits, reasons)
    if longest is None:
        caps = {
            f"all that the model was made for, {limit.why}": limit.num_tokens,
            "all that the KV cache holds": kv.num_tokens,
            "all that the row state may take of the memory": free_bytes // _ROW_SHARE // (4 * scheduler.max_num_seqs),
        }
        why = min(caps, key=caps.__getitem__)
        longest = caps[why]
        reasons.say("max_model_len", f"{longest}: {why}")
    elif longest > kv.num_tokens:
        raise CapacityError(
            f"max_model_len {longest} does not fit: the KV cache holds {kv.num_tokens} tokens; lower max_model_len or "
            f"raise num_blocks to {-(-longest // block_size)}",
            subject="max_model_len",
        )
    num_tokens = scheduler.max_num_batched_tokens
    for name, value in (("max_num_batched_tokens", num_tokens), ("max_num_seqs", scheduler.max_num_seqs)):
        if value > _MOST_IN_A_STEP:
            raise CapacityError(f"{name} must be at most {_MOST_IN_A_STEP}, got {value}", subject=name)
    num_logits = max(scheduler.max_num_seqs, min(limits.max_logit_rows, num_tokens))  # each sequence may draw
    bounds = Dims(num_tokens, scheduler.max_num_seqs, num_logits, _UPDATES, num_tokens, longest)
    in_flight, why = scheduler.steps_in_flight, "asked for"
    if in_flight is None:
        in_flight, why = limits.steps_in_flight, "the device's best"
    reasons.say("steps_in_flight", f"{in_flight}: {why}")
    return Sizes(kv, longest, bounds, in_flight)


def _size_kv(
    config: EngineConfig,
    spec: DecoderSpec | ModuleSpec,
    groups: tuple[CacheGroup, ...],
    block_size: int,
    weight_bytes: int,
    free_bytes: int,
    limits: Limits,
    reasons: Reasons,
) -> KVPlan:
    cache = config.cache
    if weight_bytes > free_bytes:
        raise CapacityError(
            f"the weights need {weight_bytes >> 20} MiB and {free_bytes >> 20} MiB are free on the device",
            subject="weights",
        )
    budget = int((free_bytes - weight_bytes) * limits.kv_share)
    if limits.kv_cap_bytes is not None:
        budget = min(budget, limits.kv_cap_bytes)
    budget = cache.kv_cache_memory_bytes or budget
    kv = plan_kv(groups, block_size=block_size, num_blocks=cache.num_blocks, budget_bytes=budget)
    if kv.num_bytes > free_bytes - weight_bytes:
        asked = "num_blocks" if cache.num_blocks else "kv_cache_memory_bytes"
        raise CapacityError(
            f"{asked} {getattr(cache, asked)} does not fit: the KV cache would have {kv.num_bytes >> 20} MiB, and "
            f"{(free_bytes - weight_bytes) >> 20} MiB are free beside the weights",
            subject=asked,
        )
    if cache.num_blocks is None and cache.kv_cache_memory_bytes is None:
        longest = config.model.max_model_len or spec.longest.num_tokens
        useful = config.scheduler.max_num_seqs * -(-longest // block_size)
        kv = replace(kv, num_blocks=min(kv.num_blocks, useful))
        reasons.say("num_blocks", f"{kv.num_blocks}: from {free_bytes >> 20} MiB free, no more than sequences can use")
    else:
        reasons.say("num_blocks", f"{kv.num_blocks}: asked for")
    return kv
