"""Clients that are too large for the environment of the other tests: `nox -s clients` has one for them, and starts the
server with the Python of the other.

Their files have names that pytest does not look for by itself, so `nox -s tests` does not find them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.server.process import Running, running


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--python", default=sys.executable, help="of an environment that has this project's packages")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`aphrodite run demo`, which can do sums and call tools."""
    python, log = request.config.getoption("--python"), tmp_path_factory.mktemp("log") / "log"
    with running("demo", log, "--device", "cpu", python=python) as found:
        yield found
