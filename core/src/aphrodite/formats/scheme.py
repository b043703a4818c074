"""Which scheme a config asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aphrodite.errors import ModelError


def require_plain(config: Mapping[str, Any], where: str) -> None:
    """ModelError if the checkpoint is quantised: its scheme is refused by name, never read as something else."""
    asked = config.get("quantization_config") or config.get("compression_config")
    if not asked:
        return
    method = asked.get("quant_method", "unnamed") if isinstance(asked, Mapping) else repr(asked)
    raise ModelError(
        f"{where}: the weights are quantised with {method!r}, which this version cannot read; use the unquantised "
        "checkpoint",
        subject=method,
    )
