"""The public surface is a list: changing it is a decision, taken here, in docs/ and in CHANGELOG.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import aphrodite

PUBLIC = {
    "AphroditeError",
    "AsyncEngine",
    "CompletionOutput",
    "EngineConfig",
    "LLM",
    "Logprob",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "__version__",
}


def test_the_public_names_are_exactly_these() -> None:
    assert set(aphrodite.__all__) == PUBLIC
    assert sorted(aphrodite.__all__) == sorted(PUBLIC), "a name is listed twice"
    assert set(dir(aphrodite)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_exists_and_says_what_it_is(name: str) -> None:
    value = getattr(aphrodite, name)
    assert value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = aphrodite.no_such_name


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_is_documented(name: str, repository: Path) -> None:
    pages = [repository / "README.md", *sorted((repository / "docs").rglob("*.md"))]
    assert any(re.search(rf"\b{name}\b", page.read_text(encoding="utf-8")) for page in pages), (
        f"no page of docs/ names {name}"
    )
