"""Facts about the host, layouts, and the default memory on the CPU."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from aphrodite.platform import dtypes
from aphrodite.platform.dtypes import ITEMSIZE, name_of, torch_dtype
from aphrodite.platform.host_memory import host_memory
from aphrodite.platform.layout import HND, LATENT, NHD, KVLayout, RowField, Rows
from tests.unit.program.parts import cpu

MiB = 1 << 20


def machine(root: Path, *, free: int = 800, total: int = 1000) -> Path:
    (root / "proc").mkdir(parents=True)
    lines = f"MemTotal: {total << 10} kB\nMemFree: 1 kB\nMemAvailable: {free << 10} kB\nHugePages_Total: 0\n"
    (root / "proc/meminfo").write_text(lines)
    return root


def v2(root: Path, limit: str, used: int, stat: str = "") -> None:
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    if stat:
        (group / "memory.stat").write_text(stat)


def v1(root: Path, limit: int, used: int, stat: str = "") -> None:
    group = root / "sys/fs/cgroup/memory"
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory.usage_in_bytes").write_text(f"{used}\n")
    if stat:
        (group / "memory.stat").write_text(stat)


def megabytes(root: Path) -> tuple[int, int]:
    info = host_memory(root)
    return info.free_bytes // MiB, info.total_bytes // MiB


def test_without_a_cgroup_the_machine_is_the_limit(tmp_path: Path) -> None:
    assert megabytes(machine(tmp_path)) == (800, 1000)


def test_a_cgroup_of_version_2_limits_what_is_free(tmp_path: Path) -> None:
    v2(machine(tmp_path), str(500 * MiB), 100 * MiB)
    assert megabytes(tmp_path) == (400, 500)
    v2(tmp_path, str(500 * MiB), 300 * MiB, f"anon 5\ninactive_file {120 * MiB}\n")
    assert megabytes(tmp_path) == (320, 500), "page cache that can be dropped counts as free"
    v2(tmp_path, "max", 300 * MiB)
    assert megabytes(tmp_path) == (800, 1000)
    v2(tmp_path, str(5000 * MiB), 0)
    assert megabytes(tmp_path) == (800, 1000), "a limit above the machine's is none"
    v2(tmp_path, str(100 * MiB), 300 * MiB)
    assert megabytes(tmp_path) == (0, 100)


def test_a_cgroup_of_version_1_limits_what_is_free(tmp_path: Path) -> None:
    v1(machine(tmp_path), 500 * MiB, 300 * MiB, f"total_inactive_file {50 * MiB}\n")
    assert megabytes(tmp_path) == (250, 500)
    v1(tmp_path, 2**63 - 4096, 300 * MiB)
    assert megabytes(tmp_path) == (800, 1000), "no limit is a huge number"


def test_the_memory_of_an_inner_group_does_not_count_twice(tmp_path: Path) -> None:
    """Version 1: memory.stat has the group's own figure and total_, which includes its children, as the usage does."""
    v1(machine(tmp_path), 500 * MiB, 300 * MiB, f"inactive_file {10 * MiB}\ntotal_inactive_file {50 * MiB}\n")
    assert megabytes(tmp_path) == (250, 500)


@pytest.mark.parametrize("text", ["", "nonsense", "MemTotal: many kB\nMemAvailable: 1 kB\n", "MemTotal: 5 kB\n"])
def test_an_unknown_machine_is_taken_for_a_modest_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(text)
    assert megabytes(tmp_path) == (4096, 4096)
    assert megabytes(tmp_path / "nowhere") == (4096, 4096)


def test_this_machine_has_some() -> None:
    info = host_memory()
    assert 0 < info.free_bytes <= info.total_bytes


# ---- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", list(itertools.permutations(("block", "kv", "token", "head", "dim"))))
def test_any_order_of_axes_has_one_canonical_view(axes: tuple[str, ...]) -> None:
    layout = KVLayout("any", axes)
    sizes = {"num_blocks": 3, "block_size": 4, "num_heads": 2, "head_dim": 5}
    view = cpu().memory.allocate_kv(layout, **sizes, value_dim=5, dtype="f32")
    keys, values = view.canonical()
    narrow = cpu().memory.allocate_kv(layout, **sizes, value_dim=3, dtype="f32").canonical()
    assert [tuple(half.shape) for half in narrow] == [(3, 4, 2, 5), (3, 4, 2, 3)]
    assert keys.shape == values.shape == (3, 4, 2, 5) and view.block_size == 4
    keys[2, 3, 1, 4] = 1.0
    values[1, 0, 1, 2] = 2.0
    assert view.k.sum() == 1.0 and view.v.sum() == 2.0, "views of one storage that do not touch"
    assert view.k.untyped_storage().data_ptr() == view.v.untyped_storage().data_ptr()
    assert view.k.data_ptr() % 64 == 0


def test_the_named_layouts_are_those_of_the_contract() -> None:
    sizes = {"block": 9, "kv": 2, "token": 16, "head": 3, "dim": 8}
    assert NHD.shape(**sizes) == (9, 2, 16, 3, 8) and HND.shape(**sizes) == (9, 2, 3, 16, 8)
    assert LATENT.shape(block=9, token=16, dim=8) == (9, 16, 8)
    for axes in (("block",), ("block", "kv", "token", "head"), ("block", "kv", "token", "head", "dim", "dim")):
        with pytest.raises(ValueError, match="axes must be a permutation"):
            KVLayout("wrong", axes)


def test_an_unknown_row_field_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Rows(torch.zeros(1, 2, dtype=torch.int32), (RowField("a", "i32", 0, 1),)).view("b")


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_an_arena_is_aligned_and_its_views_are_where_they_say() -> None:
    for _ in range(5):
        arena = cpu().memory.arena(4096)
        whole = arena.tensor(0, (4096,), (1,), "u8")
        assert whole.data_ptr() % 256 == 0
        whole.zero_()
        view = arena.tensor(512, (3, 4), (10, 1), "f32")
        assert view.data_ptr() == whole.data_ptr() + 512 and view.stride() == (10, 1)
        view.fill_(1.0)
        assert whole[:512].sum() == 0 and whole[512:].view(torch.float32).sum() == 12
        assert arena.tensor(4096, (5, 0), (0, 1), "bf16").shape == (5, 0)


def test_memory_comes_in_every_type_zeroed_where_that_is_promised() -> None:
    memory = cpu().memory
    for name in ITEMSIZE:
        zeros = memory.zeros((3, 5), name)
        assert zeros.dtype == torch_dtype(name) and not zeros.any() and zeros.itemsize == ITEMSIZE[name]
        assert memory.empty((2, 7), name).shape == (2, 7) and memory.host((4,), name).shape == (4,)
        assert name_of(torch_dtype(name)) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("bfloat16", "bf16"),
        ("torch.float16", "f16"),
        ("half", "f16"),
        ("float", "f32"),
        ("f32", "f32"),
        ("float32", "f32"),
    ],
)
def test_types_are_read_as_users_write_them(text: str, name: str) -> None:
    assert dtypes.parse(text) == name


def test_an_unknown_type_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"bfloat16.*got 'fp8'"):
        dtypes.parse("fp8")


@pytest.mark.parametrize("make", ["empty", "zeros"])
def test_memory_begins_at_a_multiple_of_256_bytes(make: str) -> None:
    for size in (1, 3, 100, 5000):
        tensor = getattr(cpu().memory, make)((size, 3), "bf16")
        assert tensor.data_ptr() % 256 == 0 and tuple(tensor.shape) == (size, 3)
    view = cpu().memory.allocate_kv(NHD, num_blocks=3, block_size=4, num_heads=2, head_dim=5, value_dim=7, dtype="f32")
    keys, values = view.canonical()
    assert keys.shape == (3, 4, 2, 5) and values.shape == (3, 4, 2, 7)
    assert not keys.any() and not values.any() and view.k.data_ptr() % 256 == view.v.data_ptr() % 256 == 0
