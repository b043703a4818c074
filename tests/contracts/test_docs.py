"""The documentation tells the truth: generated pages are fresh, links lead somewhere, and its plugin works."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from aphrodite.models.registry import FAMILIES
from aphrodite.models.rope import _SCALINGS, DEFAULT
from tests.support.checkpoints import WITHOUT_A_PAGE, Checkpoints

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]+)?\)")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def test_generated_pages_and_the_snapshot_of_the_contract_are_fresh() -> None:
    run = subprocess.run([sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    targets = [target for target, _ in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_walk_links_to_the_files_it_speaks_of() -> None:
    assert len(LINK.findall((ROOT / "docs/walk.md").read_text())) > 25


def test_the_page_of_models_lists_what_is_read() -> None:
    text = (ROOT / "docs/models.md").read_text()
    pages, modules = re.split(r"^## Without a page.*", text, flags=re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)` \|", pages, re.MULTILINE)
    assert sorted(rows) == sorted([*FAMILIES, DEFAULT, *_SCALINGS])
    tested = [name for row in re.findall(r"^\| `.*?\|", modules, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(tested) == sorted(family.model.__name__ for family in WITHOUT_A_PAGE.values())


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """The plugin of docs/plugins.md as an installed distribution: its files, and metadata made from its pyproject."""
    for name, text in BLOCK.findall((ROOT / "docs/plugins.md").read_text()):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    info = tmp_path / "aphrodite_acme-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return tmp_path


def run_with(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the plugin on its path."""
    environment = {**os.environ, "PYTHONPATH": str(folder), **env}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=folder)


def test_the_plugin_of_the_docs_imports_the_contract_alone(acme: Path) -> None:
    for path in acme.rglob("*.py"):
        imported = re.findall(r"^\s*(?:from|import) (aphrodite[\w.]*)", path.read_text(), re.MULTILINE)
        assert set(imported) <= {"aphrodite.plugin", "aphrodite_acme.kernels"}, path


def test_the_plugin_of_the_docs_is_found_and_checked(acme: Path) -> None:
    listed = run_with(acme, "-m", "aphrodite.cli.main", "plugins", "--json")
    reports = {report["name"]: report for report in json.loads(listed.stdout)["plugins"]}
    assert reports["acme"]["state"] == "ready", reports["acme"]
    assert reports["acme"]["kernels"] == ["acme.rms_norm", "acme.small_act_mul"]
    disabled = run_with(acme, "-m", "aphrodite.cli.main", "plugins", "--json", ACME_DISABLED="1")
    report = next(r for r in json.loads(disabled.stdout)["plugins"] if r["name"] == "acme")
    assert (report["state"], report["hint"]) == ("unavailable", "unset ACME_DISABLED")
    check = run_with(acme, "check.py")
    assert "rms_norm agrees" in check.stdout, check.stderr


def test_the_plugin_of_the_docs_generates_what_the_cpu_generates(acme: Path, tmp_path: Path) -> None:
    model = Checkpoints(tmp_path / "models").llama()
    ids = ",".join(str(i) for i in torch.randint(3, 100, (40,), generator=torch.Generator().manual_seed(5)).tolist())

    def tokens(device: str) -> list[int]:
        flags = ("--token-ids", ids, "--temperature", "0", "--max-tokens", "12", "--json", "--device", device)
        run = run_with(acme, "-m", "aphrodite.cli.main", "generate", str(model), *flags)
        assert run.returncode == 0, run.stderr
        return list(json.loads(run.stdout)["outputs"][0]["outputs"][0]["token_ids"])

    assert tokens("acme") == tokens("cpu")
    explained = run_with(acme, "-m", "aphrodite.cli.main", "explain", str(model), "--device", "acme", "--json")
    winners = {
        (site["op"], choice["sizes"]): [v["provider"] for v in choice["verdicts"] if v["chosen"]]
        for site in json.loads(explained.stdout)["sites"]
        for choice in site["choices"]
    }
    assert winners["rms_norm@1", ""] == ["acme.rms_norm"]
    assert winners["act_mul@1", "T <= 16"] == ["acme.small_act_mul"]
    assert winners["act_mul@1", "16 < T <= 2048"] == ["reference"]


def test_the_project_declares_its_own_plugins_for_this_contract() -> None:
    from aphrodite.plugin import CONTRACT

    declared = {ep.name: ep.value for ep in importlib.metadata.entry_points(group="aphrodite.contract")}
    assert declared["cpu"] == declared["toy"] == CONTRACT
