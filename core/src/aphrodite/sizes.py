"""How large an engine is: its KV cache, its longest sequence, its largest step, in the memory that it may take."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from aphrodite.config.engine import EngineConfig
from aphrodite.errors import CapacityError, UsageError
from aphrodite.kv.spec import CacheGroup, KVPlan, plan_kv
from aphrodite.models.fallback.spec import ModuleSpec
from aphrodite.models.spec import DecoderSpec
from aphrodite.ops.kernel import Dims
from aphrodite.platform.spi import Limits, MemoryInfo
from aphrodite.resolve import Reasons

_SHARE = 0.9  # of the memory, where nobody asks for another
_UPDATES = 8192  # words of row state that one upload holds; longer prompts take several
_MOST_IN_A_STEP = 1 << 20  # the buffers of a larger step would fit nowhere
_ENDLESS = 1 << 62  # bytes
_ROW_SHARE = 16  # of the memory, the part that tokens in the row state may take when the length is ours to choose


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


@dataclass(frozen=True)
class Allowance:
    """What of a device's memory an engine may take in all.

    memory    of the device before the engine has any
    share     of the whole memory. It is the engine's own: what others hold does not lessen it, but only what is free
              can be had
    is_asked  whether the user has named the share
    """

    memory: MemoryInfo
    share: float = _SHARE
    is_asked: bool = False

    @classmethod
    def of(cls, config: EngineConfig, memory: MemoryInfo, reasons: Reasons) -> Allowance:
        """The allowance of a config. UsageError if a share is asked for of who knows how much."""
        asked = config.cache.memory_utilization
        if asked is not None and memory.total_bytes <= 0:
            raise UsageError(
                f"memory_utilization {asked:g} would do nothing: this device does not say how much memory it has; "
                "leave it out, and say by kv_cache_memory_bytes or num_blocks how large the KV cache is to be",
                subject="memory_utilization",
            )
        found = cls(memory) if asked is None else cls(memory, asked, True)
        share = f"{found.share:g}: " if found.is_known else ""
        reasons.say("memory_utilization", f"{share}{found}")
        return found

    @property
    def is_known(self) -> bool:
        """Whether the device says anything of its memory."""
        return self.memory.free_bytes > 0 or self.memory.total_bytes > 0

    @property
    def num_bytes(self) -> int:
        """So much, everything counted."""
        free, total = self.memory.free_bytes, self.memory.total_bytes
        if not self.is_known:
            return _ENDLESS
        return min(int(total * self.share), free) if total > 0 else free

    def least_share(self, num_bytes: int) -> float | None:
        """The share with which so many bytes may be taken; None if no share would do."""
        free, total = self.memory.free_bytes, self.memory.total_bytes
        if num_bytes > free or self.num_bytes == free:
            return None
        return min(1.0, math.ceil(100 * num_bytes / total) / 100)

    def __str__(self) -> str:
        free, total = self.memory.free_bytes, self.memory.total_bytes
        if not self.is_known:
            return "as much as there is, which this device does not say"
        if self.num_bytes == free:
            of = f" of the device's {readable(total)}" if total > 0 else ""
            return f"{readable(free)}, all that is free{of}"
        return f"{readable(self.num_bytes)}, {self.share:g} of the device's {readable(total)}"


@dataclass(frozen=True)
class Taken:
    """Bytes that an engine takes beside its KV cache.

    buffers  of steps, row state and tables: 0 until kernels are chosen
    """

    weights: int
    buffers: int = 0

    @property
    def num_bytes(self) -> int:
        """All of them."""
        return self.weights + self.buffers

    def __str__(self) -> str:
        buffers = f" and {readable(self.buffers)} of buffers" if self.buffers else ""
        return f"{readable(self.weights)} of weights{buffers}"


def readable(num_bytes: int) -> str:
    """Bytes as people read them."""
    return f"{num_bytes / (1 << 30):.4g} GiB" if num_bytes >= 1 << 30 else f"{num_bytes / (1 << 20):.4g} MiB"


def choose_sizes(
    config: EngineConfig,
    spec: DecoderSpec | ModuleSpec,
    groups: tuple[CacheGroup, ...],
    *,
    taken: Taken,
    allowance: Allowance,
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
    kv = _size_kv(config, spec, groups, block_size, taken, allowance, limits, reasons)
    if longest is None:
        caps = {
            f"all that the model was made for, {limit.why}": limit.num_tokens,
            "all that the KV cache holds": kv.num_tokens,
            "all that the row state may take of the memory": allowance.num_bytes
            // _ROW_SHARE
            // (4 * scheduler.max_num_seqs),
        }
        why = min(caps, key=caps.__getitem__)
        longest = caps[why]
        reasons.say("max_model_len", f"{longest}: {why}")
    elif longest > kv.num_tokens:
        enough = replace(kv, num_blocks=-(-longest // block_size))
        if cache.kv_cache_memory_bytes is not None:
            more = f"raise kv_cache_memory_bytes to {enough.num_bytes}"
        elif cache.num_blocks is not None:
            more = f"raise num_blocks to {enough.num_blocks}"
        elif taken.num_bytes + enough.num_bytes <= allowance.num_bytes:  # it is the device's default that holds less
            more = f"set num_blocks to {enough.num_blocks}, which takes {readable(enough.num_bytes)}"
        else:
            more = _advice(taken, enough.num_bytes, allowance)
        raise CapacityError(
            f"max_model_len {longest} does not fit: the KV cache holds {kv.num_tokens} tokens; lower max_model_len to "
            f"that or to auto, or {more}",
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
    taken: Taken,
    allowance: Allowance,
    limits: Limits,
    reasons: Reasons,
) -> KVPlan:
    """The cache as asked for, or what the rest of the memory holds of it, within what the device takes by default."""
    cache = config.cache
    room = allowance.num_bytes - taken.num_bytes
    asked = "num_blocks" if cache.num_blocks is not None else "kv_cache_memory_bytes"
    is_asked = getattr(cache, asked) is not None
    if not (is_asked or allowance.is_known):
        raise UsageError(
            "num_blocks must be given, or kv_cache_memory_bytes: this device does not say how much memory it has, so "
            "the size of the KV cache is yours to choose",
            subject="num_blocks",
        )
    least = 0 if is_asked else 2 * sum(group.block_bytes(block_size) for group in groups)  # block 0, and one
    if room < least:
        cached = "" if is_asked else f" and a KV cache of {readable(least)}"
        raise CapacityError(
            f"{taken}{cached} do not fit: an engine may take {allowance}; {_advice(taken, least, allowance)}",
            subject="weights",
        )
    caps = {"all that is left beside weights and buffers": room}
    if not allowance.is_asked:
        caps[f"{limits.kv_share:g} of what is left beside weights and buffers"] = int(room * limits.kv_share)
        if limits.kv_cap_bytes is not None:
            caps[f"the device's default of at most {readable(limits.kv_cap_bytes)}"] = limits.kv_cap_bytes
    why = min(caps, key=caps.__getitem__)
    kv = plan_kv(
        groups,
        block_size=block_size,
        num_blocks=cache.num_blocks,
        budget_bytes=cache.kv_cache_memory_bytes or max(caps[why], least),
    )
    if kv.num_bytes > room:
        raise CapacityError(
            f"{asked} {getattr(cache, asked)} does not fit: the KV cache would have {readable(kv.num_bytes)} beside "
            f"{taken}, and an engine may take {allowance}; lower {asked}, or "
            f"{_advice(taken, kv.num_bytes, allowance)}",
            subject=asked,
        )
    if is_asked:
        reasons.say("num_blocks", f"{kv.num_blocks}: asked for")
        return kv
    longest = config.model.max_model_len or spec.longest.num_tokens
    useful = config.scheduler.max_num_seqs * -(-longest // block_size)
    if useful <= kv.num_blocks:
        kv, why = replace(kv, num_blocks=useful), "as many as the sequences of a step can use"
    reasons.say("num_blocks", f"{kv.num_blocks}: {why}; an engine may take {allowance}")
    return kv


def _advice(taken: Taken, kv_bytes: int, allowance: Allowance) -> str:
    """What would make room for a cache of so many bytes, the least change first."""
    needed = taken.num_bytes + kv_bytes
    found = []
    if (share := allowance.least_share(needed)) is not None:
        found.append(f"raise memory_utilization to {share:g}")
    elif needed > allowance.memory.free_bytes:
        found.append(f"free {readable(needed - allowance.memory.free_bytes)} more on the device")
    if taken.buffers > taken.weights // 8:
        found.append("lower max_num_batched_tokens or max_num_seqs, which make the buffers")
    found.append("take a smaller model or dtype")
    return ", or ".join(found)
