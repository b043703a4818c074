"""How much host memory this process may still take: the machine's, or its cgroup's if that is less."""

from __future__ import annotations

from pathlib import Path

from aphrodite.platform.spi import MemoryInfo


def host_memory(root: Path = Path("/")) -> MemoryInfo:
    """Free and total bytes. `root` is / but in tests. Files that are absent (no cgroup, no Linux) count as no limit."""
    free, total = _meminfo(root / "proc/meminfo")
    for limit_file, usage_file, stat_file in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        base = root / "sys/fs/cgroup"
        limit = _integer(base / limit_file)
        used = _integer(base / usage_file)
        if limit is None or used is None:
            continue
        used -= _inactive_file(base / stat_file)  # page cache that the kernel gives back when asked
        total = min(total, limit)
        free = min(free, max(0, limit - used))
    return MemoryInfo(free, total)


def _meminfo(path: Path) -> tuple[int, int]:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) << 10, int(lines["MemTotal"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return 4 << 30, 4 << 30  # unknown machine: be modest


def _integer(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def _inactive_file(path: Path) -> int:
    try:
        stat = dict(line.split() for line in path.read_text().splitlines())
        return int(stat.get("total_inactive_file", stat.get("inactive_file", "0")))
    except (OSError, ValueError):
        return 0
