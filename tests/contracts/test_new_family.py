"""The tutorial on model families, followed to the letter in a copy of the sources: its family passes its own test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import aphrodite
from aphrodite.models.registry import FAMILIES

BLOCK = re.compile(r"^```(python|diff) file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
CORE = "core/src/aphrodite"


def change(text: str, diff: str) -> str:
    """A text with the lines of a diff that begin with + in place of, or among, its others."""
    lines = [(line[:1], line[1:]) for line in diff.splitlines(keepends=True)]
    before = "".join(line for mark, line in lines if mark in " -")
    after = "".join(line for mark, line in lines if mark in " +")
    assert text.count(before) == 1, f"the page shows what stands {text.count(before)} times in the file:\n{before}"
    return text.replace(before, after)


@pytest.fixture(scope="module")
def tree(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources that run here and the tests, with the page's files written and its changes made."""
    root = tmp_path_factory.mktemp("tree")
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(aphrodite.__file__).parent, root / CORE, ignore=unwanted)
    shutil.copytree(repository / "tests/support", root / "tests/support", ignore=unwanted)
    for name in ("tests/conftest.py", "tests/models/conftest.py", "docs/models.md", "pyproject.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, root / name)
    for kind, name, text in BLOCK.findall((repository / "docs/new-family.md").read_text()):
        path = root / name
        assert path.exists() == (kind == "diff"), f"{name} is {'new' if kind == 'python' else 'changed'}"
        path.write_text(text if kind == "python" else change(path.read_text(), text))
    return root


def test_the_family_of_the_tutorial_gives_what_transformers_gives(tree: Path) -> None:
    path = os.pathsep.join([str(tree / "core/src"), str(tree), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*PYTEST, "tests/models/test_smollm3_parity.py", "-k", "not toy"],  # one device is enough here
        capture_output=True, text=True, cwd=tree, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b7 passed", done.stdout) and "skipped" not in done.stdout, done.stdout


def test_the_page_of_models_lists_it_as_the_registry_does(tree: Path) -> None:
    pages, _ = (tree / "docs/models.md").read_text().split("## Without a page")
    listed = re.findall(r"^\| `(\w+ForCausalLM)` \|", pages, re.MULTILINE)
    assert sorted(listed) == sorted([*FAMILIES, "SmolLM3ForCausalLM"])


def test_it_stays_a_page(repository: Path) -> None:
    pages = {name: text for kind, name, text in BLOCK.findall((repository / "docs/new-family.md").read_text())}
    assert len(pages[f"{CORE}/models/smollm3.py"].splitlines()) <= 70
