"""What `pip install aphrodite-core` brings beside torch, and that the core declares all it imports."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MAX_PACKAGES = 34
MAX_MIB = 130


def closure(root: str) -> set[str]:
    """The canonical names of an installed distribution and of all that it requires here, without extras."""
    found: set[str] = set()
    todo = [(root, "")]
    while todo:
        name, extra = todo.pop()
        name = canonicalize_name(name)
        if name in found and not extra:
            continue
        try:
            wanted = [Requirement(line) for line in distribution(name).requires or []]
        except PackageNotFoundError:
            pytest.fail(f"{root} requires {name}, which is not installed")
        found.add(name)
        for one in wanted:
            if one.marker is not None and not one.marker.evaluate({"extra": extra}):
                continue
            if canonicalize_name(one.name) not in found or one.extras:
                todo.extend((one.name, each) for each in ("", *one.extras))
    return found


def mebibytes(name: str) -> float:
    """The size of an installed distribution's files, without bytecode, which depends on who installs it."""
    files = (Path(str(file.locate())) for file in distribution(name).files or [] if file.suffix != ".pyc")
    return sum(path.stat().st_size for path in files if path.is_file()) / 2**20


def test_the_core_stays_within_its_package_budget() -> None:
    brought = closure("aphrodite-core") - closure("torch")
    sizes = {name: mebibytes(name) for name in brought}
    largest_first = sorted(sizes.items(), key=lambda item: -item[1])
    table = "\n".join(f"{size:8.1f} MiB  {name}" for name, size in largest_first)
    print(f"{len(sizes)} packages, {sum(sizes.values()):.1f} MiB beside torch's own:\n{table}")
    assert "aphrodite-core" in sizes and "numpy" in sizes
    assert len(sizes) <= MAX_PACKAGES, table
    assert sum(sizes.values()) <= MAX_MIB, table


def test_the_core_imports_only_what_it_declares(repository: Path) -> None:
    """Anything else would work here, where transformers brings much more, and fail at a user's."""
    requirements = [Requirement(line) for line in distribution("aphrodite-core").requires or []]
    declared = {canonicalize_name(one.name) for one in requirements}  # those of the extras too
    providers = packages_distributions()
    free = {*sys.stdlib_module_names, "aphrodite"}
    undeclared = []
    for path in sorted((repository / "core" / "src").rglob("*.py")):
        for module, line in imported_modules(path):
            provided_by = {canonicalize_name(name) for name in providers.get(module, [])}
            if module not in free and not declared & provided_by:
                undeclared.append(f"{path.relative_to(repository)}:{line}: {module}")
    assert not undeclared, "imported by the core but not among its requirements:\n" + "\n".join(undeclared)


def imported_modules(path: Path) -> list[tuple[str, int]]:
    """The first parts of all absolute imports of a file, with their lines."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.extend((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append((node.module.partition(".")[0], node.lineno))
    return found
