"""Distributions that bring models, made on the spot."""

from __future__ import annotations

from pathlib import Path

from aphrodite.weights.sources import GROUP


def install(site: Path, distribution: str, entries: str, module: str = "", *, code: str = "") -> None:
    """Write what an installer would: metadata with the entry points `entries`, and a module if it is named."""
    info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}\n")
    if module:
        (site / f"{module}.py").write_text(code)
