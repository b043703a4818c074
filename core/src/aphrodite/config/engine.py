"""EngineConfig: every setting of an engine, frozen, nested, declared once. Flags and docs are generated from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from aphrodite.errors import UsageError

AUTO = "auto"
LOAD_FORMATS = ("auto", "safetensors", "dummy")
FALLBACKS = ("allow", "warn", "error")
DETERMINISM = ("request", "batch")
SCHEDULING_POLICIES = ("fcfs", "priority")


def setting(default: Any, doc: str, **meta: Any) -> Any:
    """A field with its documentation; meta: choices, metavar, flag (name on the command line), low and high
    (least and greatest number)."""
    meta = {"doc": doc, **meta}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=meta)
    return field(default=default, metadata=meta)


class Section:
    """A part of EngineConfig. Making one checks every setting; UsageError names the wrong one and what is legal."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, item.name, _checked(item, getattr(self, item.name)))


@dataclass(frozen=True)
class ModelConfig(Section):
    """Which model, and how it is read."""

    model: str = setting("", "Folder of a Hugging Face checkpoint, or its name on the hub.")
    revision: str | None = setting(None, "Branch, tag or commit on the hub.")
    dtype: str = setting(AUTO, "Type of weights and activations: auto is the checkpoint's own.", metavar="TYPE")
    max_model_len: int | None = setting(
        None, "Longest sequence, prompt and output; default: what the model and the cache hold."
    )
    load_format: str = setting(AUTO, "Where weights come from; dummy: random ones, for trials.", choices=LOAD_FORMATS)
    generation_config: str = setting(
        AUTO,
        "Defaults of sampling parameters: auto takes the model's generation_config.json; none; or a path.",
        metavar="auto|none|PATH",
    )
    seed: int = setting(0, "Seed of requests that bring none, and of dummy weights.", flag="engine_seed", low=0)


@dataclass(frozen=True)
class CacheConfig(Section):
    """The paged KV cache. num_blocks or kv_cache_memory_bytes sets its size, never both."""

    block_size: int | None = setting(None, "Tokens a KV block; default: the device's best.")
    num_blocks: int | None = setting(None, "Usable KV blocks; default: from the memory that is free.")
    kv_cache_memory_bytes: int | None = setting(None, "Bytes for the KV cache, in place of num_blocks.")
    enable_prefix_caching: bool = setting(
        True, "Keep the KV blocks of past prompts and outputs, for requests that start alike."
    )


@dataclass(frozen=True)
class SchedulerConfig(Section):
    """How much a step may hold."""

    max_num_seqs: int = setting(64, "Most sequences in a step.")
    max_num_batched_tokens: int = setting(2048, "Most tokens in a step: the budget that prefill and decode share.")
    scheduling_policy: str = setting(
        "fcfs", "Who goes first: fcfs, by arrival; priority, by the request's.", choices=SCHEDULING_POLICIES
    )
    steps_in_flight: int | None = setting(
        None,
        "Steps that run while the next is scheduled; 0 waits for each. Default: the device's best.",
        low=0,
        high=4,
    )


@dataclass(frozen=True)
class DeviceConfig(Section):
    """Where it runs, with which plugins and kernels."""

    device: str = setting(
        AUTO,
        "Device to run on (`aphrodite plugins` lists them); auto: the best that is ready.",
        metavar="NAME",
    )
    plugins: str = setting("", "Plugins to use: a,b only these; -a all but a; none.", metavar="LIST")
    kernels: Mapping[str, tuple[str, ...]] = setting(
        {}, "Kernels to prefer by operation, in order: rms_norm=acme.*,reference.", metavar="OP=LIST"
    )
    fallback: str = setting("allow", "What to do where only a torch form serves a site.", choices=FALLBACKS)
    determinism: str = setting(
        "request",
        "What a request's output may depend on. request: given its logits, a draw depends on the request alone. batch: "
        "so do the logits, bit for bit, which needs kernels that promise it.",
        choices=DETERMINISM,
    )


@dataclass(frozen=True)
class EngineConfig:
    """All settings of one engine."""

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)


def config_from(settings: Mapping[str, Any]) -> EngineConfig:
    """An EngineConfig from flat settings, as LLM takes them. UsageError names one that does not exist."""
    left = dict(settings)
    if "dtype" in left:
        left["dtype"] = str(left["dtype"])  # torch.bfloat16 reads "torch.bfloat16"
    sections = {}
    for name, kind in _SECTIONS.items():
        known = kind.__dataclass_fields__
        sections[name] = kind(**{key: left.pop(key) for key in list(left) if key in known})
    if left:
        unknown = next(iter(left))
        known_names = sorted(key for kind in _SECTIONS.values() for key in kind.__dataclass_fields__)
        raise UsageError(f"there is no setting {unknown!r}; there are {', '.join(known_names)}", subject=unknown)
    return EngineConfig(**sections)


_SECTIONS: Mapping[str, type[Any]] = {
    "model": ModelConfig,
    "cache": CacheConfig,
    "scheduler": SchedulerConfig,
    "device": DeviceConfig,
}


def _checked(item: Field[Any], value: Any) -> Any:
    """The value of a setting, normalised."""
    kind, meta = str(item.type), item.metadata
    if value is None and "None" in kind:
        return None
    if "Mapping" in kind:
        return _checked_rules(item.name, value)
    if kind == "bool":
        legal, good = "true or false", isinstance(value, bool)
    elif "int" in kind:
        low, high = meta.get("low", 1), meta.get("high")
        legal = f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}"
        good = type(value) is int and low <= value and (high is None or value <= high)
    elif "choices" in meta:
        legal, good = f"one of {', '.join(meta['choices'])}", value in meta["choices"]
    else:
        legal, good = "text", isinstance(value, str)
    if not good:
        raise UsageError(f"{item.name} must be {legal}, got {value!r}", subject=item.name)
    return value


def _checked_rules(name: str, value: Any) -> Mapping[str, tuple[str, ...]]:
    """{"rms_norm": ["acme.*", "reference"]}, where a lone provider needs no list."""
    if isinstance(value, Mapping):
        rules = {op: (given,) if isinstance(given, str) else tuple(given) for op, given in value.items()}
        if all(isinstance(text, str) for op, given in rules.items() for text in (op, *given)):
            return rules
    raise UsageError(f"{name} must map operations to lists of providers, got {value!r}", subject=name)
