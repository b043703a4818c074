"""EngineConfig: every setting of an engine, frozen, nested, declared once. Flags, files' keys and docs come from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from aphrodite.config import env
from aphrodite.errors import UsageError

AUTO = "auto"
_MOST = 2**64 - 1  # of integers: what goes to an engine's process
DUMMY = "dummy"
LOAD_FORMATS = (AUTO, "safetensors", DUMMY)
FALLBACKS = ("allow", "warn", "error")
DETERMINISM = ("request", "batch")
SCHEDULING_POLICIES = ("fcfs", "priority")


def setting(default: Any, doc: str, **meta: Any) -> Any:
    """A field with its documentation, and what else is to be known of it.

    choices      the texts it may be, in any case
    low, high    least and greatest number
    above        what a number must be greater than
    metavar      what stands for its value in help
    flag         its name on the command line, where it is another
    env          the environment variable that gives it, where neither caller, flag nor file does
    is_common    shown by a command's first page of help
    unset        what the default means, where it is no value to type
    aliases      other names for it, wherever it is named
    is_secret    never shown, not by --dump-config either
    """
    meta = {"doc": doc, **meta}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=meta)
    return field(default=default, metadata=meta)


class Section:
    """A part of EngineConfig. Making one checks every setting; UsageError names the wrong one and what is legal."""

    @classmethod
    def settings(cls) -> tuple[Field[Any], ...]:
        """Its settings, in order."""
        return fields(cls)  # type: ignore[arg-type]  # each section is a dataclass

    def __post_init__(self) -> None:
        for item in self.settings():
            object.__setattr__(self, item.name, _checked(item, getattr(self, item.name)))


@dataclass(frozen=True)
class ModelConfig(Section):
    """Which model, and how it is read."""

    model: str = setting(
        "",
        "Folder of a Hugging Face checkpoint, name on the hub, or short name of an installed model.",
        metavar="MODEL",
        is_common=True,
    )
    revision: str | None = setting(None, "Branch, tag or commit on the hub.", metavar="NAME", unset="main")
    offline: bool = setting(False, "Use no network: a model on the hub must be in the download cache.")
    download_dir: str | None = setting(
        None, "Folder for models from the hub.", metavar="PATH", env=env.CACHE, unset="the hub client's cache"
    )
    dtype: str = setting(
        AUTO, "Type of weights and activations: auto is the checkpoint's own.", metavar="TYPE", is_common=True
    )
    max_model_len: int | None = setting(
        None, "Longest sequence, prompt and output; auto: what the model and the cache hold.", is_common=True
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

    block_size: int | None = setting(None, "Tokens a KV block; auto: the device's best.")
    memory_utilization: float | None = setting(
        None,
        "Share of the device's memory for weights, buffers and KV cache together; auto: 0.9, less what a device that "
        "others use too keeps back.",
        above=0,
        high=1,
        aliases=("gpu_memory_utilization",),
    )
    num_blocks: int | None = setting(None, "Usable KV blocks; auto: what memory_utilization leaves room for.")
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
        "Steps that run while the next is scheduled; 0 waits for each. auto: the device's best.",
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
        env=env.TARGET_DEVICE,
        is_common=True,
    )
    plugins: str = setting(
        "", "Plugins to use: a,b only these; -a all but a; none.", metavar="LIST", env=env.PLUGINS, unset="all"
    )
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


SECTIONS: Mapping[str, type[Section]] = {
    "model": ModelConfig,
    "device": DeviceConfig,
    "cache": CacheConfig,
    "scheduler": SchedulerConfig,
}


def config_from(settings: Mapping[str, Any]) -> EngineConfig:
    """An EngineConfig from flat settings, as LLM takes them; those left out may come from the environment.

    UsageError names a setting that does not exist or has two values, or a value that is wrong.
    """
    known = {item.name: item for section in SECTIONS.values() for item in section.settings()}
    names = {alias: item.name for item in known.values() for alias in item.metadata.get("aliases", ())}
    given: dict[str, Any] = {}
    for name, value in settings.items():
        own = names.get(name, name)
        if own not in known:
            raise UsageError(f"there is no setting {name!r}; there are {', '.join(sorted(known))}", subject=name)
        if own in given:
            both = " and ".join(one for one in settings if names.get(one, one) == own)
            raise UsageError(f"{own} is given twice, as {both}", subject=own)
        given[own] = value
    if "dtype" in given:
        given["dtype"] = str(given["dtype"])  # torch.bfloat16 reads "torch.bfloat16"
    for name, item in known.items():
        if name not in given and (value := env.value(item.metadata.get("env"))) is not None:
            given[name] = value
    sections: dict[str, Any] = {
        name: section(**{item.name: given[item.name] for item in section.settings() if item.name in given})
        for name, section in SECTIONS.items()
    }
    return EngineConfig(**sections)


def _checked(item: Field[Any], value: Any) -> Any:
    """The value of a setting, normalised."""
    kind, meta = str(item.type), item.metadata
    if value is None and "None" in kind:
        return None
    if "Mapping" in kind:
        return _checked_rules(item.name, value)
    if "tuple" in kind:
        return _checked_texts(item.name, value)
    given = value  # numbers are numbers here: flags and files have read their texts before
    if kind == "bool":
        legal, good = "true or false", isinstance(value, bool)
    elif "int" in kind:
        if "None" in kind and value == AUTO:
            return None
        low, high = meta.get("low", 1), meta.get("high")
        legal = f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}"
        legal += " or auto" if "None" in kind else ""
        good = type(value) is int and low <= value <= (_MOST if high is None else high)
    elif "float" in kind:
        value = float(value) if type(value) is int and abs(value) <= _MOST else value
        if "None" in kind and value == AUTO:
            return None
        low, above, high = meta.get("low", -math.inf), meta.get("above"), meta.get("high", math.inf)
        bounds = f" in [{low}, {high}]" if low > -math.inf or high < math.inf else ""
        legal = "a finite number" + (bounds if above is None else f" in ({above}, {high}]")
        legal += " or auto" if "None" in kind else ""
        good = type(value) is float and math.isfinite(value) and low <= value <= high
        good = good and (above is None or value > above)
    elif "choices" in meta:
        value = value.lower() if isinstance(value, str) else value
        legal, good = f"one of {', '.join(meta['choices'])}", value in meta["choices"]
    else:
        legal, good = "text in UTF-8" if isinstance(value, str) else "text", _is_text(value)
    if not good:
        raise UsageError(f"{item.name} must be {legal}, got {given!r}", subject=item.name)
    return value


def _is_text(value: Any) -> bool:
    """Whether it can be sent to an engine's process. What the system gives as a file's name need not be text."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _checked_texts(name: str, value: Any) -> tuple[str, ...]:
    """A list of texts."""
    if isinstance(value, (list, tuple)) and all(_is_text(text) for text in value):
        return tuple(value)
    raise UsageError(f"{name} must be a list of texts, got {value!r}", subject=name)


def _checked_rules(name: str, value: Any) -> Mapping[str, tuple[str, ...]]:
    """{"rms_norm": ["acme.*", "reference"]}, where a lone provider needs no list."""
    if isinstance(value, Mapping):
        rules = {op: (given,) if isinstance(given, str) else given for op, given in value.items()}
        lists = all(isinstance(given, (list, tuple)) for given in rules.values())
        if lists and all(_is_text(text) for op, given in rules.items() for text in (op, *given)):
            return {op: tuple(given) for op, given in rules.items()}
    raise UsageError(f"{name} must map operations to lists of providers, got {value!r}", subject=name)
