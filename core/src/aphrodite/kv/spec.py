"""Cache groups: layers that keep the same tokens share one block table."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.errors import CapacityError


@dataclass(frozen=True)
class LayerKV:
    """What one layer keeps of a token."""

    num_heads: int
    head_dim: int
    value_dim: int
    itemsize: int

    @property
    def token_bytes(self) -> int:
        return self.num_heads * (self.head_dim + self.value_dim) * self.itemsize


@dataclass(frozen=True)
class CacheGroup:
    """Layers with one block table.

    kind    what they keep: "full" every token, "sliding" the last ones
    window  of a sliding group: a token is read by itself and the window - 1 after it, and by nothing later
    """

    kind: str
    layers: tuple[LayerKV, ...]
    window: int | None = None

    def __post_init__(self) -> None:
        assert self.kind in ("full", "sliding") and (self.window is not None) == (self.kind == "sliding")

    def block_bytes(self, block_size: int) -> int:
        """Bytes of one block in all layers of the group."""
        return sum(layer.token_bytes for layer in self.layers) * block_size


@dataclass(frozen=True)
class KVPlan:
    """The cache of an engine: num_blocks usable blocks of block_size tokens for every group. Block 0 comes on top."""

    groups: tuple[CacheGroup, ...]
    block_size: int
    num_blocks: int

    @property
    def num_bytes(self) -> int:
        return sum(group.block_bytes(self.block_size) for group in self.groups) * (self.num_blocks + 1)

    @property
    def num_tokens(self) -> int:
        """Tokens that fit."""
        return self.num_blocks * self.block_size


def plan_kv(groups: tuple[CacheGroup, ...], *, block_size: int, num_blocks: int | None, budget_bytes: int) -> KVPlan:
    """Size the cache: `num_blocks` as asked, else as many as the budget holds. CapacityError if not even one fits."""
    a_block = sum(group.block_bytes(block_size) for group in groups)
    if num_blocks is None:
        num_blocks = budget_bytes // a_block - 1
    if num_blocks < 1:
        raise CapacityError(
            f"the KV cache has {budget_bytes} bytes, and two blocks of {block_size} tokens need {2 * a_block}: "
            f"raise kv_cache_memory_bytes or lower block_size",
            subject="kv cache",
        )
    return KVPlan(groups, block_size, num_blocks)
