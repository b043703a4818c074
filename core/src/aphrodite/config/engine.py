"""EngineConfig: every setting of an engine, frozen, nested, declared once. Flags and docs are generated from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

AUTO = "auto"
LOAD_FORMATS = ("auto", "safetensors", "dummy")
FALLBACKS = ("allow", "warn", "error")


def setting(default: Any, doc: str, **meta: Any) -> Any:
    """A field with its documentation; meta: choices, metavar, flag (its name on the command line)."""
    meta = {"doc": doc, **meta}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=meta)
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and how it is read."""

    model: str = setting("", "Folder of a Hugging Face checkpoint, or its name on the hub.")
    revision: str | None = setting(None, "Branch, tag or commit on the hub.")
    dtype: str = setting(AUTO, "Type of weights and activations: auto is the checkpoint's own.", metavar="TYPE")
    max_model_len: int | None = setting(
        None, "Longest sequence, prompt and output; default: what the model and the cache hold."
    )
    load_format: str = setting(AUTO, "Where weights come from; dummy: random ones, for trials.", choices=LOAD_FORMATS)
    seed: int = setting(0, "Seed of requests that bring none, and of dummy weights.", flag="engine_seed")


@dataclass(frozen=True)
class CacheConfig:
    """The paged KV cache. num_blocks or kv_cache_memory_bytes sets its size, never both."""

    block_size: int | None = setting(None, "Tokens a KV block; default: the device's best.")
    num_blocks: int | None = setting(None, "Usable KV blocks; default: from the memory that is free.")
    kv_cache_memory_bytes: int | None = setting(None, "Bytes for the KV cache, in place of num_blocks.")


@dataclass(frozen=True)
class SchedulerConfig:
    """How much a step may hold."""

    max_num_seqs: int = setting(64, "Most sequences in a step.")
    max_num_batched_tokens: int = setting(2048, "Most tokens in a step: the budget that prefill and decode share.")


@dataclass(frozen=True)
class DeviceConfig:
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


@dataclass(frozen=True)
class EngineConfig:
    """All settings of one engine."""

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
