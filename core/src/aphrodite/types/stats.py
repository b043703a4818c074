"""How full an engine is, in numbers that cross processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """Gauges are as of now, counts since the engine was built.

    num_steps        steps settled
    num_running, num_waiting, num_held  sequences; held: those whose readers are behind
    kv_blocks_*      of the first cache group: usable ones; those that nobody holds, cached or not; those of them that
                     are cached; those that are held by nobody and not free, which is a fault of ours
    num_preemptions  times that a sequence had to make room
    prefix_*_tokens  of prompts that were started: all, and those that came from the prefix cache
    """

    num_steps: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_held: int = 0
    kv_blocks_total: int = 0
    kv_blocks_free: int = 0
    kv_blocks_evictable: int = 0
    kv_blocks_leaked: int = 0
    num_preemptions: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
