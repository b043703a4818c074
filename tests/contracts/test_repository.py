"""The repository's own shape: what stands at the top, what every distribution carries, what no file says."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import aphrodite

TOP_LEVEL = {
    "core", "plugins", "kernels-cpu", "kernels-cuda", "kernels-rocm",
    "tests", "benchmarks", "docs", "examples",
    "pyproject.toml", "noxfile.py", "Dockerfile",
    "README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md",
}  # fmt: skip
NOT_YET = {"kernels-cuda", "kernels-rocm", "Dockerfile"}
MADE_BY_SESSIONS = {"dist", "site", "__pycache__"}  # nox -s build, nox -s docs, and nox itself

# Somebody's machine: a project that names it works only there.
MACHINE = re.compile(r"(?<![\w.-])/(?:home|root|Users|work)/\w|(?<![\w./-])shared[/]")


def folders_of_distributions(repository: Path) -> list[Path]:
    """Every folder that has a pyproject.toml of its own."""
    places = ("*/pyproject.toml", "plugins/*/pyproject.toml", "examples/*/pyproject.toml")
    return sorted(path.parent for place in places for path in repository.glob(place))


def files_of(repository: Path) -> Iterator[Path]:
    """The project's files, without what tools leave."""
    names = [path for path in repository.iterdir() if path.name in TOP_LEVEL or path.name == ".ci"]
    names += [path for path in repository.glob(".*") if path.is_file() and path.name != ".git"]  # a worktree has one
    for top in names:
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not {"__pycache__", "build", "_skbuild"}.intersection(path.parts):
                yield path


def test_the_top_level_holds_what_it_should_and_nothing_else(repository: Path) -> None:
    present = {path.name for path in repository.iterdir() if not path.name.startswith(".")} - MADE_BY_SESSIONS
    assert sorted(present - TOP_LEVEL) == [], "everything has its place one level down"
    assert sorted(TOP_LEVEL - NOT_YET - present) == []


def test_no_file_names_somebodys_machine(repository: Path) -> None:
    found = []
    for path in files_of(repository):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        name = path.relative_to(repository)
        found += [f"{name}:{number}: {line}" for number, line in enumerate(lines, 1) if MACHINE.search(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["see shared|DESIGN", "|home|me", "cd |root|x", "(|work|here)"])
def test_a_path_on_somebodys_machine_is_recognised(text: str) -> None:
    assert MACHINE.search(text.replace("|", "/"))  # spelt with | so that this file is not found itself


@pytest.mark.parametrize("text", ["include/shared.h", "a/home/b", "https://site/work/1", "shared", "~/work"])
def test_another_path_is_not(text: str) -> None:
    assert not MACHINE.search(text)


def test_every_distribution_carries_a_readme_and_the_licence(repository: Path) -> None:
    licence = (repository / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
    folders = folders_of_distributions(repository)
    assert {folder.name for folder in folders} >= {"core", "cpu", "toy", "kernels-cpu", "demo_model"}
    for folder in folders:
        about = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert (folder / "README.md").read_text(encoding="utf-8").strip(), folder
        # A copy, not a link: links do not survive into every sdist nor onto every file system.
        assert not (folder / "LICENSE").is_symlink(), folder
        assert (folder / "LICENSE").read_text(encoding="utf-8") == licence, folder
        assert (about["license"], about["readme"]) == ("Apache-2.0", "README.md"), folder
        assert about["requires-python"].startswith(">=3.11"), folder


def test_all_distributions_have_one_version(repository: Path) -> None:
    for folder in folders_of_distributions(repository):
        about = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert about.get("version", aphrodite.__version__) == aphrodite.__version__, folder
        assert version(about["name"]) == aphrodite.__version__, f"{folder}: the installed one is another"
    assert f"[{aphrodite.__version__}]" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_command_tells_the_version() -> None:
    command = [str(Path(sys.executable).with_name("aphrodite")), "--version"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    assert aphrodite.__version__ in answer.stdout.split()


@pytest.mark.parametrize("session", ["demo", "tests"])
def test_the_readme_has_the_command_for(session: str, repository: Path) -> None:
    command = f"python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s {session}"
    assert command in (repository / "README.md").read_text(encoding="utf-8").splitlines()


def test_the_longest_file_of_the_core(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed and never failed: ten times the median is a reason to talk, not a limit."""
    files = (repository / "core" / "src").rglob("*.py")
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    lengths = {path: length for path, length in lengths.items() if length > 20}
    longest = max(lengths, key=lambda path: lengths[path])
    median = statistics.median(lengths.values())
    ratio = lengths[longest] / median
    with capsys.disabled():
        print(
            f"\ncore: {len(lengths)} files, {sum(lengths.values())} lines, median {median:.0f}; longest"
            f" {longest.relative_to(repository)} with {lengths[longest]}, {ratio:.1f} times that"
            f"{': let us talk about it' if ratio > 10 else ''}"
        )
