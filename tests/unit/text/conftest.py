"""A folder for each kind of tokenizer, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.text.kinds import KINDS, save


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folders by kind."""
    root = tmp_path_factory.mktemp("tokenizers")
    return {kind: save(make(), root / kind) for kind, make in KINDS.items()}
