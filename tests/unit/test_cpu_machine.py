"""What the CPU plugin makes of a machine: threads from affinity, cores and quotas of either kind of control groups."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from aphrodite.plugin import DeviceInfo, UsageError
from aphrodite_cpu.machine import THREADS, choose_threads, cpu_quota, flags, model_name
from aphrodite_cpu.platform import HostDevice, HostMemory, make


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def siblings(*cores: str) -> dict[str, str]:
    """The topology of a machine whose cores have these processors."""
    return {
        f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": core
        for core in cores
        for number in core.split(",")
    }


GROUPS = "sys/fs/cgroup"
SLICE, SERVICE = f"{GROUPS}/app.slice", f"{GROUPS}/app.slice/web.service"
V2 = {"proc/self/cgroup": "0::/app.slice/web.service"}
V1 = {"proc/self/cgroup": "5:memory:/other\n3:cpu,cpuacct:/docker/abc\n0::/"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({f"{GROUPS}/cpu.max": "max 100000"}, None),
        ({f"{GROUPS}/cpu.max": "250000 100000"}, 2.5),
        (V2 | {f"{SERVICE}/cpu.max": "50000 100000"}, 0.5),
        (V2 | {f"{SERVICE}/cpu.max": "max 100000", f"{SLICE}/cpu.max": "300000 100000"}, 3),
        (V2 | {f"{SERVICE}/cpu.max": "400000 100000", f"{GROUPS}/cpu.max": "100000 50000"}, 2),
        (V2 | {f"{GROUPS}/cpu.max": "150000 100000"}, 1.5),  # in a container the path may be the host's
        ({f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1", f"{GROUPS}/cpu/cpu.cfs_period_us": "100000"}, None),
        ({f"{GROUPS}/cpu/cpu.cfs_quota_us": "200000", f"{GROUPS}/cpu/cpu.cfs_period_us": "100000"}, 2),
        (
            V1
            | {
                f"{GROUPS}/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "120000",
                f"{GROUPS}/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "80000",
            },
            1.5,
        ),
        ({f"{GROUPS}/cpu.max": "nonsense"}, None),
    ],
)  # fmt: skip
def test_the_tightest_quota_of_all_groups_above(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    assert cpu_quota(write(tmp_path, files)) == quota


@pytest.mark.parametrize(
    ("files", "allowed", "torchs", "count", "reason"),
    [
        ({}, {0, 1, 5}, 8, 3, "affinity 3"),
        (siblings("0,4", "1,5", "2,6", "3,7"), {0, 1, 2, 3, 4, 5, 6, 7}, 8, 4, "affinity 8, cores 4"),
        (siblings("0,4", "1,5", "2,6", "3,7"), {0, 1}, 8, 2, "affinity 2"),
        (siblings("0,4", "1,5"), {0, 4}, 8, 1, "affinity 2, cores 1"),
        ({f"{GROUPS}/cpu.max": "250000 100000"}, {0, 1, 2, 3}, 4, 2, "affinity 4, quota 2.5"),
        ({f"{GROUPS}/cpu.max": "50000 100000"}, {0, 1}, 2, 1, "affinity 2, quota 0.5"),
        ({f"{GROUPS}/cpu.max": "800000 100000"}, {0, 1}, 2, 2, "affinity 2, quota 8.0"),
        ({}, {0, 1, 2, 3}, 1, 1, "affinity 4, torch's 1"),
    ],
)
def test_the_least_of_all_limits(
    files: dict[str, str], allowed: set[int], torchs: int, count: int, reason: str, tmp_path: Path
) -> None:
    threads = choose_threads({}, allowed=allowed, torchs=torchs, root=write(tmp_path, files))
    assert (threads.count, threads.reason) == (count, reason)


def test_the_environment_decides(tmp_path: Path) -> None:
    threads = choose_threads({THREADS: " 3 "}, allowed={0}, torchs=1, root=tmp_path)
    assert threads.count == 3 and THREADS in threads.reason


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5"])
def test_a_number_that_is_none_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, wrong)
    with pytest.raises(UsageError, match=rf"{THREADS} must be a positive integer, got '{wrong}'"):
        make(DeviceInfo("cpu", "any"))


def test_what_the_processor_is(tmp_path: Path) -> None:
    assert flags(tmp_path) == frozenset() and model_name(tmp_path)
    write(tmp_path, {"proc/cpuinfo": "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: avx2 avx512_bf16"})
    assert flags(tmp_path) == {"avx2", "avx512_bf16"} and model_name(tmp_path) == "A Processor"


def test_the_threads_of_others_stay_as_they_are() -> None:
    """A thread that has computed keeps its number when another one activates the device with a different one."""
    before = torch.get_num_threads()
    seen: list[int] = []

    def drive() -> None:
        HostDevice(DeviceInfo("cpu", "any"), torch.device("cpu"), before + 1).activate()
        seen.append(torch.get_num_threads())

    torch.ones(2) + 1
    try:
        thread = threading.Thread(target=drive)
        thread.start()
        thread.join()
        assert seen == [before + 1] and torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)  # also of threads to come


def test_the_platform_says_how_many_threads_it_takes() -> None:
    platform = make(DeviceInfo("cpu", "any"))
    (note,) = platform.limits.notes
    assert note.startswith(f"{platform.device.num_threads} thread") and "affinity" in note  # type: ignore[attr-defined]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_zeroed_host_memory_is_not_taken_before_it_is_used() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    cache = HostMemory(torch.device("cpu")).zeros((256 << 20,), "f32")
    assert resident() - before < 64 << 20, "1 GiB of zeros"
    assert isinstance(cache, torch.Tensor) and cache.data_ptr() % 256 == 0
    assert cache.shape == (256 << 20,)
    assert not cache[:: 1 << 20].any() and cache.dtype == torch.float32
