"""Importing Aphrodite is cheap, so that any application can afford it and `--help` answers at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processor import seconds_over_a_bare_interpreter

HEAVY = {
    "torch", "transformers", "tokenizers", "huggingface_hub", "llguidance",
    "starlette", "fastapi", "uvicorn", "httptools", "uvloop", "pydantic", "prometheus_client",
    "aiohttp", "httpx", "httpx2", "requests", "urllib3",
}  # fmt: skip
IMPORT_BUDGET_S = 0.150
HELP_BUDGET_S = 0.300


@pytest.mark.parametrize("module", ["aphrodite", "aphrodite.plugin"])
def test_import_loads_neither_torch_nor_a_web_package(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded = HEAVY.intersection(json.loads(answer))
    assert not loaded, f"import {module} loads {sorted(loaded)}"


@pytest.mark.parametrize("module", ["aphrodite", "aphrodite.plugin"])
def test_import_is_quick(module: str) -> None:
    cost = seconds_over_a_bare_interpreter([sys.executable, "-c", f"import {module}"])
    print(f"import {module}: {cost * 1000:.0f} ms over a bare interpreter")
    assert cost < IMPORT_BUDGET_S, f"{cost:.3f} s; python -X importtime -c 'import {module}' shows where"


def test_help_is_quick() -> None:
    command = Path(sys.executable).with_name("aphrodite")
    cost = seconds_over_a_bare_interpreter([str(command), "--help"])
    print(f"aphrodite --help: {cost * 1000:.0f} ms over a bare interpreter")
    assert cost < HELP_BUDGET_S, f"{cost:.3f} s; python -X importtime {command} --help shows where"


def test_the_library_works_without_the_servers_packages() -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('uvicorn', 'httptools', 'uvloop', 'msgspec', 'prometheus_client'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import aphrodite\n"
        "for name in aphrodite.__all__: getattr(aphrodite, name)\n"
        "import aphrodite.engine.llm, aphrodite.engine.async_engine, aphrodite.build\n"
        "import aphrodite.plugin, aphrodite.cli.main\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
