"""Fixtures of the tests that run models. A folder's conftest.py imports those that it wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import Checkpoints
from tests.support.devices import DEVICES, require
from tests.support.engines import make_pools_unlike
from tests.support.reference import Reference


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices are so small here that a second thread only gets in the way, above all where cores are few."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def reference() -> Callable[..., Reference]:
    """Transformers' reading of a folder, loaded once."""
    loaded: dict[tuple[Path, str], Reference] = {}

    def load(folder: Path, dtype: str = "float32") -> Reference:
        if (folder, dtype) not in loaded:
            loaded[folder, dtype] = Reference(folder, dtype)
        return loaded[folder, dtype]

    return load


@pytest.fixture
def unlike_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups hold a token in different blocks."""
    make_pools_unlike(monkeypatch)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return require(request.param)
