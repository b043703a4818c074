"""What the processor can do, and how much of it this process may use. Linux's own files; absent ones limit nothing."""

from __future__ import annotations

import os
import platform as host
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from aphrodite.plugin import UsageError

THREADS = "APHRODITE_CPU_THREADS"
_ROOT = Path("/")


@dataclass(frozen=True)
class Threads:
    """How many threads compute, and where the number comes from, for a line of a report."""

    count: int
    reason: str


def choose_threads(environ: Mapping[str, str], *, allowed: Set[int], torchs: int, root: Path = _ROOT) -> Threads:
    """A thread for each core that the process may use: what APHRODITE_CPU_THREADS says, or the least of all limits.

    allowed  processors that the process may run on (its affinity)
    torchs   what torch would take; less than the machine has if OMP_NUM_THREADS or torch.set_num_threads said so
    Two processors of one core count once: they share its vector units. A quota of 2.5 processors is 2 threads, since
    one more would be stopped for a part of each period while the others wait for it.
    UsageError if the variable is no positive integer.
    """
    if given := environ.get(THREADS, "").strip():
        if not given.isdecimal() or int(given) < 1:
            raise UsageError(f"{THREADS} must be a positive integer, got {given!r}", subject=THREADS)
        return Threads(int(given), f"from {THREADS}")
    limits = {f"affinity {len(allowed)}": len(allowed)}
    if (cores := _num_cores(allowed, root)) < len(allowed):
        limits[f"cores {cores}"] = cores
    if (quota := cpu_quota(root)) is not None:
        limits[f"quota {quota:.1f}"] = max(1, int(quota))
    if torchs < min(limits.values()):
        limits[f"torch's {torchs}"] = torchs
    return Threads(max(1, min(limits.values())), ", ".join(limits))


def affinity() -> frozenset[int]:
    """Processors that this process may run on. Linux has them, which alone this plugin is claimed for."""
    return frozenset(os.sched_getaffinity(0))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Processors' worth of time that the process's control groups grant, the tightest of them; None: no limit."""
    quotas = [quota for folder in _control_groups(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def flags(root: Path = _ROOT) -> frozenset[str]:
    """Instructions that the processor has, by the names of /proc/cpuinfo."""
    return frozenset(_cpuinfo("flags", root).split()) | frozenset(_cpuinfo("Features", root).split())


def model_name(root: Path = _ROOT) -> str:
    """The processor's name, or at least its architecture."""
    return _cpuinfo("model name", root) or host.machine()


def _num_cores(processors: Set[int], root: Path) -> int:
    """Cores among these processors; one that does not say counts as a core of its own."""
    siblings = {
        _text(root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list") or str(number)
        for number in processors
    }
    return len(siblings)


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of the groups that the process is in, from its own up to the root, of both versions of the hierarchy.
    Within a container the path may be the host's: what does not exist is passed over, the mount's own folder is not."""
    top = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = Path(path.lstrip("/"))
        for mount in (top, top / "unified") if not controllers else (top / "cpu", top / controllers):
            yield from (mount / folder for folder in (own, *own.parents))
    yield from (top, top / "cpu")


def _quota(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    if not words:
        words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # absent, or "max"
        return None
    return quota / period if quota > 0 and period > 0 else None


def _cpuinfo(field: str, root: Path) -> str:
    lines = [line.partition(":") for line in _text(root / "proc/cpuinfo").splitlines()]
    return next((value.strip() for name, _, value in lines if name.strip() == field), "")


def _text(path: Path) -> str:
    """What a file says, "" if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
