"""The project's commands: `nox -s demo`, `tests`, `lint` and so on; `nox -l` lists them.

torch is by far the largest thing to install, so the sessions that need it share one environment,
.nox/torch, which nox cannot do by itself: those sessions ask `torch_environment` for its Python. It installs
what changed since the last run and nothing else, so that a second run starts at once.

The distributions go into it as wheels, not in editable mode: the tests then see what a user would, and a file
that the wheel forgets, or an entry point that is misspelt, fails here instead of after a release. A change in
a pure Python distribution costs two seconds that way.

APHRODITE_TORCH is pip's requirement for torch, then options if need be (default: torch). For example
    APHRODITE_TORCH="torch --index-url https://download.pytorch.org/whl/cpu" nox -s tests
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import nox
from packaging.requirements import Requirement  # nox depends on it

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
TORCH = os.environ.get("APHRODITE_TORCH") or "torch"
TORCH_ENVIRONMENT = ROOT / ".nox" / "torch"

DISTRIBUTIONS = ("core", "kernels-cpu", "plugins/cpu", "plugins/toy", "examples/demo_model")
SOURCES = ("core/src", "plugins/cpu/src", "plugins/toy/src", "kernels-cpu/src", "examples/demo_model/src")
# Folders inside a distribution that tools make and that are no part of it.
NOT_SOURCES = {"__pycache__", "build", "dist", "_skbuild", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Generate text with the model that aphrodite-demo brings."""
    session.run(torch_environment(session), "examples/demo.py", *session.posargs)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the tests, a process a core; what follows -- is passed to pytest (-n 0: all in one process)."""
    workers = ("--numprocesses=auto", "--maxprocesses=8", "--dist=worksteal")
    one_thread = {"OMP_NUM_THREADS": "1"}  # pools of threads that share cores wait for one another
    session.run(torch_environment(session), "-m", "pytest", *workers, *session.posargs, env=one_thread)


@nox.session(venv_backend="none")
def soak(session: nox.Session) -> None:
    """Abuse a server for some hours, on each device that needs no hardware, and see what is left."""
    session.run(torch_environment(session), "benchmarks/soak.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Change headers of checkpoint files; ask a server for what its OpenAPI document says, and for what it does not."""
    session.install(*group("fuzz"))
    python = torch_environment(session)
    session.run(python, "benchmarks/fuzz_headers.py", "--count", "100000", external=True)
    session.run("python", "benchmarks/fuzz.py", "--python", python, *session.posargs)


@nox.session
def clients(session: nox.Session) -> None:
    """Run the tests of clients that are too large for the environment of the others."""
    session.install(*group("clients"))
    python = torch_environment(session)
    session.run("python", "-m", "pytest", "tests/clients/langchain.py", "--python", python, *session.posargs)


@nox.session
def lm_eval(session: nox.Session) -> None:
    """Evaluate local tasks with lm-eval, over HTTP and with its own `hf` backend, which must agree; two minutes."""
    python = torch_environment(session)
    # hf computes with the torch that is there already: pip finds it through this file, and installs no other.
    own = run_for_output(session, "python", "import sysconfig; print(sysconfig.get_path('purelib'))")
    shared = run_for_output(session, python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    (Path(own) / "borrowed.pth").write_text(shared + "\n")
    session.install(*group("lm_eval"))
    session.run("python", "benchmarks/lm_eval_compare.py", "--python", python, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Read the sources: ruff, codespell, and the contracts on imports."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("codespell")
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": os.pathsep.join(SOURCES)})


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check the types of all distributions, strictly."""
    session.run(torch_environment(session), "-m", "mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation with warnings as errors, and check that its generated pages are fresh."""
    session.install(*group("docs"))
    # Not --quiet: that would hide the warnings from --strict too.
    session.run("mkdocs", "build", "--strict", "--config-file", ".mkdocs.yml")
    session.run(torch_environment(session), "docs/generate.py", "--check", external=True)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheels and sdists into dist/, and prove that they are complete, resolve, and work."""
    session.install(*group("build"))
    shutil.rmtree(DIST, ignore_errors=True)
    for folder in DISTRIBUTIONS:
        # Both from the tree; by default `build` makes the wheel from the sdist, which is the proof below.
        session.run("python", "-m", "build", "--sdist", "--wheel", "--outdir", str(DIST), folder, silent=True)
    check_sdists(session)
    check_wheelhouse(session)
    check_installed(session)


# ------------------------------------------------------------------------------------------ what build proves


def check_sdists(session: nox.Session) -> None:
    """Each sdist holds all that its wheel needs: a wheel built from it has the same files."""
    rebuilt = fresh_folder(session, "from-sdist")
    sdists = files_in(DIST, "*.tar.gz")
    session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(rebuilt), *sdists)
    wheels = files_in(DIST, "*.whl")
    if len(wheels) != len(DISTRIBUTIONS):
        session.error(f"{len(DISTRIBUTIONS)} distributions made {len(wheels)} wheels: {wheels}")
    for wheel in map(Path, wheels):
        from_tree = set(zipfile.ZipFile(wheel).namelist())
        from_sdist = set(zipfile.ZipFile(rebuilt / wheel.name).namelist())
        if from_tree != from_sdist:
            session.error(f"{wheel.name}: only from tree or sdist: {sorted(from_tree ^ from_sdist)}")
        if not any(name.endswith(".dist-info/licenses/LICENSE") for name in from_tree):
            session.error(f"{wheel.name} does not carry its licence")


def check_wheelhouse(session: nox.Session) -> None:
    """`aphrodite-core[cpu,demo]` resolves, and what is ours in it comes from dist/, not from an index."""
    report = Path(session.create_tmp()) / "resolution.json"
    resolve = ("pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(report))
    torch = torch_requirement()[0]  # without options, which would hold for all the packages
    session.run(*resolve, "--find-links", str(DIST), torch, "aphrodite-core[cpu,demo]", "aphrodite-toy")
    resolved = json.loads(report.read_text())["install"]
    ours = {
        entry["metadata"]["name"]: entry["download_info"]["url"]
        for entry in resolved
        if entry["metadata"]["name"].startswith("aphrodite-")
    }
    missing = {name_of(folder) for folder in DISTRIBUTIONS} - set(ours)
    strangers = {url for url in ours.values() if not url.startswith(DIST.as_uri())}
    if missing or strangers:
        session.error(f"aphrodite-core[cpu,demo] resolves without {missing}, and with {strangers}")
    session.log(f"aphrodite-core[cpu,demo] and aphrodite-toy resolve to {len(resolved)} packages")


def check_installed(session: nox.Session) -> None:
    """The wheels work in an environment of their own, which borrows the rest from the shared one."""
    environment = fresh_folder(session, "installed")
    session.run("python", "-m", "venv", "--without-pip", str(environment), silent=True)
    python = str(environment / "bin" / "python")
    own = run_for_output(session, python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    shared = torch_environment(session)
    borrowed = run_for_output(session, shared, "import sysconfig; print(sysconfig.get_path('purelib'))")
    (Path(own) / "borrowed.pth").write_text(borrowed + "\n")

    pip = ("pip", "--python", python)
    offline = ("--quiet", "--no-deps", "--no-index", "--ignore-installed")
    session.run(*pip, "install", *offline, *files_in(DIST, "*.whl"))
    session.run(*pip, "check")
    where = run_for_output(session, python, "import aphrodite; print(aphrodite.__file__)")
    if not where.startswith(str(environment)):
        session.error(f"this would look at the wrong installation: {where}")
    aphrodite = str(environment / "bin" / "aphrodite")
    for command in (("--version",), ("plugins",), ("generate", "demo", "--prompt", "Once upon a time", "--seed", "1")):
        session.run(aphrodite, *command, external=True)


# ------------------------------------------------------------------------------------- the shared environment


def torch_environment(session: nox.Session) -> str:
    """Bring .nox/torch up to date and return its Python."""
    python = TORCH_ENVIRONMENT / "bin" / "python"
    pip = (str(python), "-m", "pip", "install", "--quiet")

    if not is_fresh("python", digest(sys.version)):
        session.log(f"making {TORCH_ENVIRONMENT.relative_to(ROOT)}")
        create = ("-m", "virtualenv", "--quiet", "--no-periodic-update", "--clear", str(TORCH_ENVIRONMENT))
        session.run(sys.executable, *create, external=True)
        mark_fresh("python", digest(sys.version))

    any_will_do = TORCH == "torch" and stamp_of("torch").exists()
    if not any_will_do and not is_fresh("torch", digest(TORCH)):
        session.log(f"installing {TORCH} (may download it)")
        session.run(*pip, *torch_requirement(), external=True)
        mark_fresh("torch", digest(TORCH))

    wanted = requirements()
    if not is_fresh("requirements", digest(*wanted)):
        session.log(f"installing {len(wanted)} requirements and theirs")
        session.run(*pip, *wanted, external=True)
        mark_fresh("requirements", digest(*wanted))

    digests = {folder: digest_of(folder) for folder in DISTRIBUTIONS}
    changed = [folder for folder, now in digests.items() if not is_fresh(folder, now)]
    if changed:
        session.log(f"building and installing {', '.join(changed)}")
        paths = [f"./{folder}" for folder in changed]
        session.run(*pip, "--no-deps", "--force-reinstall", *paths, external=True)
        for folder in changed:
            mark_fresh(folder, digests[folder])
    return str(python)


def torch_requirement() -> list[str]:
    """What to pass to pip for torch: the requirement, then options if any."""
    return shlex.split(TORCH)


def requirements() -> list[str]:
    """What our distributions with all extras and mypy need from elsewhere, beside torch."""
    wanted = set(group("types"))
    for folder in DISTRIBUTIONS:
        about = project(folder)
        wanted.update(about.get("dependencies", []))
        for extra in about.get("optional-dependencies", {}).values():
            wanted.update(extra)
    here = {"torch", *map(name_of, DISTRIBUTIONS)}
    return sorted(one for one in wanted if Requirement(one).name not in here)


def is_fresh(step: str, now: str) -> bool:
    """Whether `step` last succeeded with the digest `now`."""
    stamp = stamp_of(step)
    return stamp.exists() and stamp.read_text() == now


def mark_fresh(step: str, now: str) -> None:
    """Record that `step` succeeded with the digest `now`."""
    stamp_of(step).write_text(now)


def stamp_of(step: str) -> Path:
    """Where the digest of `step` is kept: in the environment, so that deleting it forgets them all."""
    return TORCH_ENVIRONMENT / f".{step.replace('/', '-')}.digest"


def digest_of(folder: str) -> str:
    """The digest of all files of a distribution."""
    files = sorted(
        path
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not NOT_SOURCES.intersection(path.relative_to(ROOT / folder).parts)
    )
    return digest(*(part for path in files for part in (str(path.relative_to(ROOT)), path.read_bytes())))


def digest(*parts: str | bytes) -> str:
    """A hash that tells any two lists of parts from one another."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()


# ------------------------------------------------------------------------------------------------ small tools


@functools.cache
def load_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file, read once."""
    return tomllib.loads(path.read_text())


def project(folder: str) -> dict[str, Any]:
    """The [project] table of a distribution."""
    return load_toml(ROOT / folder / "pyproject.toml")["project"]


def name_of(folder: str) -> str:
    """The name under which a distribution is installed."""
    return project(folder)["name"]


def group(which: str) -> list[str]:
    """One dependency group of the repository's pyproject.toml."""
    return load_toml(ROOT / "pyproject.toml")["dependency-groups"][which]


def run_for_output(session: nox.Session, python: str, code: str) -> str:
    """What a line of Python prints."""
    return str(session.run(python, "-c", code, silent=True, external=True)).strip()


def files_in(folder: Path, pattern: str) -> list[str]:
    """The files of a folder that match, in order."""
    return sorted(map(str, folder.glob(pattern)))


def fresh_folder(session: nox.Session, called: str) -> Path:
    """An empty folder for the session's use."""
    folder = Path(session.create_tmp()).resolve() / called
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
