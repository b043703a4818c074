"""How much of a device's memory an engine takes: what memory_utilization says, and what the device then counts."""

from __future__ import annotations

import itertools
import re
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aphrodite import LLM, SamplingParams
from aphrodite.blueprint import Blueprint, draw_up
from aphrodite.config.engine import config_from
from aphrodite.errors import CapacityError, UsageError
from aphrodite.plugin import MemoryInfo
from aphrodite_toy.device import ToyDevice
from aphrodite_toy.memory import Block, Heap
from tests.support.checkpoints import Checkpoints

MIB = 1 << 20
SETTINGS = {"device": "toy", "dtype": "float32", "max_num_seqs": 64, "max_num_batched_tokens": 64}
FEW = {"max_num_seqs": 2, "max_num_batched_tokens": 16}


@dataclass
class Small:
    """A device of so little memory, and the bytes that it has given."""

    info: MemoryInfo
    given_bytes: int = 0

    def of(self, total: int, free: int | None = None) -> None:
        self.info = MemoryInfo(total if free is None else free, total)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Small:
    found = Small(MemoryInfo(0, 0))
    allocate = Heap.allocate

    def counted(self: Heap, num_bytes: int, *, zeroed: bool) -> Block:
        block = allocate(self, num_bytes, zeroed=zeroed)
        found.given_bytes += num_bytes
        weakref.finalize(block, give_back, num_bytes)
        return block

    def give_back(num_bytes: int) -> None:
        found.given_bytes -= num_bytes

    monkeypatch.setattr(Heap, "allocate", counted)
    monkeypatch.setattr(ToyDevice, "memory", lambda self: found.info)
    return found


@pytest.fixture(scope="module")
def model(checkpoints: Checkpoints) -> Path:
    return checkpoints.llama()


def drawn(model: Path, **settings: Any) -> Blueprint:
    """Everything decided, nothing taken."""
    blueprint = draw_up(config_from({"model": str(model), **SETTINGS, **settings}))
    blueprint.platform.device.close()
    return blueprint


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 1.0])
def test_an_engine_takes_its_share_and_no_more(small: Small, model: Path, share: float) -> None:
    small.of(24 * MIB)
    wanted = SamplingParams(max_tokens=8, temperature=0.7, top_p=0.9, logprobs=3, repetition_penalty=1.1, seed=1)
    with LLM(str(model), memory_utilization=share, **SETTINGS) as llm:
        llm.generate([[1, 5, 6]] * 4, SamplingParams(max_tokens=8, temperature=0))
        llm.generate([[1, 5, 6, 7]] * 64, wanted)
        taken, kv = small.given_bytes, llm.blueprint.sizes.kv
    assert taken <= share * 24 * MIB
    # No more than sequences can use; where there are fewer blocks, nothing that would hold one more is left over.
    assert kv.num_blocks == 64 * 512 // kv.block_size or taken > 0.85 * share * 24 * MIB, kv


def test_the_cache_grows_with_the_share(small: Small, model: Path) -> None:
    small.of(20 * MIB)
    shares = (0.4, 0.5, 0.6)
    kvs = [drawn(model, memory_utilization=share).sizes.kv for share in shares]
    a_block = kvs[1].num_bytes // (kvs[1].num_blocks + 1)
    for one, other in itertools.pairwise(kvs):
        grown = (other.num_blocks - one.num_blocks) * a_block
        assert grown == pytest.approx(0.1 * 20 * MIB, abs=a_block)  # a tenth of the memory more, all of it for blocks


def test_others_may_hold_what_is_not_ours_and_no_more_than_is_free_is_taken(small: Small, model: Path) -> None:
    small.of(24 * MIB)
    alone = drawn(model, memory_utilization=0.4).sizes.kv
    small.of(24 * MIB, free=11 * MIB)
    assert drawn(model, memory_utilization=0.4).sizes.kv == alone, "two engines may have their shares of one device"
    small.of(24 * MIB, free=8 * MIB)
    less = drawn(model, memory_utilization=0.4)
    assert less.sizes.kv.num_blocks < alone.num_blocks and "all that is free" in less.reasons["memory_utilization"]


def test_by_default_it_is_nine_tenths_less_what_the_device_keeps_back(small: Small, model: Path) -> None:
    small.of(24 * MIB)
    found = drawn(model)
    assert found.reasons["memory_utilization"].startswith("0.9: 21.6 MiB")
    asked = drawn(model, memory_utilization=0.9)
    assert found.sizes.kv.num_blocks < asked.sizes.kv.num_blocks  # the toy's kv_share is 0.1
    small.info = MemoryInfo(24 * MIB, 0)
    assert drawn(model).sizes.kv.num_blocks > 0


def test_auto_finds_the_length_that_fits_and_says_so(small: Small, model: Path) -> None:
    small.of(4 * MIB)
    found = drawn(model, memory_utilization=0.19, **FEW)
    assert found.sizes.max_model_len == found.sizes.kv.num_tokens < 512
    assert found.reasons["max_model_len"] == f"{found.sizes.max_model_len}: all that the KV cache holds"


@pytest.mark.parametrize(
    ("total", "settings", "words"),
    [
        (
            6,
            {"memory_utilization": 0.05},
            ("weights", "0.3 MiB, 0.05 of the device's 6 MiB", "memory_utilization to 0."),
        ),
        (6, {"memory_utilization": 0.15}, ("weights", "raise memory_utilization to 0.")),
        (0.1, {}, ("weights", "0.09 MiB, 0.9 of", "free", "smaller model or dtype")),
        (
            4,
            {"memory_utilization": 0.19, "max_model_len": 512, **FEW},
            ("max_model_len 512 does not fit", "lower max_model_len", "raise memory_utilization to 0."),
        ),
        (24, {"memory_utilization": 0.3, "num_blocks": 2000}, ("num_blocks 2000", "memory_utilization")),
    ],
    ids=str,
)
def test_too_little_is_told_with_figures_and_what_to_do(
    small: Small, model: Path, total: float, settings: dict[str, Any], words: tuple[str, ...]
) -> None:
    small.of(int(total * MIB))
    with pytest.raises(CapacityError) as raised:
        drawn(model, **settings)
    assert all(word in str(raised.value) for word in words), str(raised.value)


@pytest.mark.parametrize(
    ("total", "free", "settings"),
    [
        (24, 2, {}),  # the toy's default is a tenth of what is left
        (0, 2, {}),
        (24, 24, {"num_blocks": 8}),
        (24, 24, {"kv_cache_memory_bytes": 100_000}),
    ],
    ids=str,
)
def test_what_an_error_says_of_the_cache_makes_room_for_the_length(
    small: Small, model: Path, total: int, free: int, settings: dict[str, int]
) -> None:
    small.info = MemoryInfo(free * MIB, total * MIB)
    with pytest.raises(CapacityError, match="max_model_len 500 does not fit") as raised:
        drawn(model, max_model_len=500, **FEW, **settings)
    found = re.search(r"(?:raise|set) (num_blocks|kv_cache_memory_bytes) to (\d+)", str(raised.value))
    assert found is not None and found[1] == next(iter(settings), "num_blocks"), raised.value
    advised = {found[1]: int(found[2])}
    assert drawn(model, max_model_len=500, **FEW, **advised).sizes.max_model_len == 500
    least = {found[1]: int(found[2]) - 1}
    with pytest.raises(CapacityError):
        drawn(model, max_model_len=500, **FEW, **least)


def test_the_share_that_an_error_names_is_enough(small: Small, model: Path) -> None:
    small.of(6 * MIB)
    share = 0.02
    for _ in range(4):  # what buffers take is known later than what weights do
        try:
            found = drawn(model, memory_utilization=share)
            break
        except CapacityError as error:
            share = float(str(error).partition("raise memory_utilization to ")[2].partition(",")[0])
    assert found.sizes.kv.num_blocks >= 1 and share < 1


def test_a_device_that_does_not_say_how_much_it_has_refuses_a_share(small: Small, model: Path) -> None:
    small.info = MemoryInfo(24 * MIB, 0)
    with pytest.raises(UsageError, match=r"memory_utilization 0\.5 would do nothing.*kv_cache_memory_bytes"):
        drawn(model, memory_utilization=0.5)


def test_a_device_that_says_nothing_of_its_memory_wants_the_size_of_the_cache(small: Small, model: Path) -> None:
    with pytest.raises(UsageError, match="num_blocks must be given, or kv_cache_memory_bytes: this device does"):
        drawn(model)
    assert drawn(model, num_blocks=40).sizes.kv.num_blocks == 40
    found = drawn(model, kv_cache_memory_bytes=1 << 20, max_model_len="auto")
    assert 0 < found.sizes.kv.num_bytes <= 1 << 20 and found.sizes.max_model_len > 0
    assert found.reasons["memory_utilization"] == "as much as there is, which this device does not say"
    with pytest.raises(UsageError, match=r"memory_utilization 0\.5 would do nothing"):
        drawn(model, memory_utilization=0.5, num_blocks=40)
    with pytest.raises(CapacityError, match="or raise num_blocks to"):
        drawn(model, num_blocks=2, max_model_len=500)


@pytest.mark.parametrize("wrong", [0, 0.0, -0.1, 1.01, "half", True, float("nan")])
def test_a_share_is_above_0_and_at_most_1(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"^memory_utilization must be a finite number in \(0, 1\] or auto, got"):
        config_from({"memory_utilization": wrong})


def test_the_name_that_users_know_means_it_too() -> None:
    assert config_from({"gpu_memory_utilization": 0.5}).cache.memory_utilization == 0.5
    assert config_from({"gpu_memory_utilization": "auto"}).cache.memory_utilization is None
    with pytest.raises(UsageError, match="twice, as memory_utilization and gpu_memory_utilization"):
        config_from({"memory_utilization": 0.5, "gpu_memory_utilization": 0.5})
