"""What a checkpoint says about generating: its end tokens."""

from __future__ import annotations

from pathlib import Path

from aphrodite.errors import ModelError
from aphrodite.models.config import HFConfig, read_json


def end_token_ids(folder: Path, config: HFConfig) -> frozenset[int]:
    """Ids that end a text: of generation_config.json, else of config.json; empty if neither names one."""
    path = folder / "generation_config.json"
    generation = HFConfig(read_json(path), str(path)) if path.is_file() else HFConfig({}, str(path))
    for source in (generation, config):
        value = source.data.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(token) is int and token >= 0 for token in ids):
            raise ModelError(
                f"{source.where}: eos_token_id must be a token id or a list of them, got {value!r}",
                subject="eos_token_id",
            )
        return frozenset(ids)
    return frozenset()
