"""Short names of installed models: what a name means, and what is said when it means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aphrodite.errors import ModelError, UsageError
from aphrodite.weights import sources
from aphrodite.weights.hub import Fetch, locate
from tests.support.sources import install

OFFLINE = Fetch(offline=True)
HEAVY = ("torch", "huggingface_hub", "tokenizers", "transformers", "numpy")
RESOLVE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from aphrodite.weights.hub import Fetch, locate
print(json.dumps([str(locate("tiny", Fetch())), sorted(sys.modules)]))
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where distributions are installed for one test; the working directory is an empty folder."""
    folder, here = tmp_path / "site", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(here)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("acme"):
            del sys.modules[name]


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def bring(site: Path, name: str = "tiny", distribution: str = "acme-models", folder: Path | None = None) -> Path:
    """Install a distribution with one model."""
    module = distribution.replace("-", "_")
    folder = model(site / module) if folder is None else folder
    install(site, distribution, f"{name} = {module}_paths:HERE", f"{module}_paths", code=f"HERE = {str(folder)!r}\n")
    return folder


def refusal(name: str, fetch: Fetch = OFFLINE) -> str:
    with pytest.raises(ModelError) as caught:
        locate(name, fetch)
    assert caught.value.subject == name
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_short_name_is_the_folder_that_a_distribution_brings(site: Path) -> None:
    folder = bring(site)
    assert locate("tiny", OFFLINE) == folder
    assert [entry.dist.name for entry in sources.installed()["tiny"] if entry.dist] == ["acme-models"]


def test_a_path_object_does_as_well_as_text(site: Path) -> None:
    folder = model(site / "weights")
    install(site, "acme", "tiny-2.b = acme_x:PLACES.two", "acme_x",
            code=f"import pathlib\nclass PLACES:\n    two = pathlib.Path({str(folder)!r})\n")  # fmt: skip
    assert locate("tiny-2.b", OFFLINE) == folder


def test_resolving_imports_nothing_heavy(site: Path) -> None:
    folder = bring(site)
    run = subprocess.run([sys.executable, "-c", RESOLVE, str(site)], check=True, capture_output=True, text=True)
    found, modules = json.loads(run.stdout)
    assert found == str(folder) and run.stderr == ""
    assert not set(HEAVY).intersection(modules)


def test_a_folder_with_a_config_goes_before_an_installed_name(site: Path) -> None:
    brought = bring(site)
    assert locate("tiny", OFFLINE) == brought
    Path("tiny").mkdir()
    assert locate("tiny", OFFLINE) == brought  # a folder of something else
    (Path("tiny") / "config.json").write_text("{}")
    assert locate("tiny", OFFLINE) == Path("tiny")


def test_a_file_of_that_name_is_in_nobodys_way(site: Path) -> None:
    Path("tiny").write_text("notes")
    assert "is a file" in refusal("tiny")
    folder = bring(site)
    assert locate("tiny", OFFLINE) == folder


@pytest.mark.parametrize("spelled", ["./tiny", "../here/tiny", "tiny/"])
def test_a_path_always_means_the_folder(site: Path, spelled: str) -> None:
    bring(site)
    assert "there is no such folder" in refusal(spelled)
    Path("tiny").mkdir()
    assert locate(spelled, OFFLINE).resolve() == Path("tiny").resolve()


def test_an_absolute_path_always_means_the_folder(site: Path, tmp_path: Path) -> None:
    bring(site)
    assert "there is no such folder" in refusal(str(tmp_path / "tiny"))


@pytest.mark.parametrize("name", list(sources.OURS))
def test_a_model_of_ours_that_is_absent_says_how_to_install_it(
    site: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "installed", dict)
    said = refusal(name, Fetch())  # not offline: the hub is not even asked
    assert said == f"model {name!r}: the model of that name is not installed: pip install {sources.OURS[name]}"
    assert "there is no such folder" in refusal(f"./{name}")
    Path(name).mkdir()
    assert "has no config.json" in refusal(name) and "pip install" in refusal(name)
    (Path(name) / "config.json").write_text("{}")
    assert locate(name, OFFLINE) == Path(name)


def test_an_unknown_short_name_tells_which_are_installed(site: Path) -> None:
    bring(site)
    said = refusal("tinny")
    assert "tiny" in said.replace("tinny", "") and "owner/name" in said


def test_two_distributions_with_one_name_are_both_named(site: Path) -> None:
    bring(site)
    bring(site, distribution="other-models")
    bring(site, "small", "third-models")
    said = refusal("tiny")
    assert "acme-models 1.2" in said and "other-models 1.2" in said and "third" not in said
    assert locate("small", OFFLINE).name == "third_models"  # only who asks for it is troubled


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('no\\nluck')", "RuntimeError: no"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import acme_absent_part", "ModuleNotFoundError"),
        ("THERE = '/'", "AttributeError"),
        ("HERE = 7", "TypeError"),
        ("HERE = None", "TypeError"),
        ("HERE = b'bytes'", "TypeError"),
        ("HERE = 'nowhere/at/all'", "is no folder with a config.json"),
        ("HERE = '/a\\0b'", "is no folder with a config.json"),
        ("HERE = (", "SyntaxError"),
    ],
)
def test_a_broken_source_names_its_distribution(site: Path, code: str, reason: str) -> None:
    install(site, "acme-broken", "tiny = acme_broken:HERE", "acme_broken", code=code)
    bring(site, "small")
    said = refusal("tiny")
    assert "acme-broken 1.2" in said and "'acme_broken:HERE'" in said and reason in said, said
    assert locate("small", OFFLINE).name == "acme_models"


def test_a_folder_that_lost_its_files_names_its_distribution(site: Path) -> None:
    (bring(site) / "config.json").unlink()
    assert "acme-models 1.2 is broken" in refusal("tiny")


def test_a_revision_is_not_for_installed_models(site: Path) -> None:
    bring(site)
    with pytest.raises(UsageError, match="revision 'v1' is for models on the hub; tiny is installed"):
        locate("tiny", Fetch(revision="v1"))
