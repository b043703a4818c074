"""Help one can read: short first pages, everything on request, the nearest name for a wrong one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aphrodite._version import __version__
from aphrodite.cli.commands import COMMANDS
from aphrodite.config.table import GROUPS
from tests.support.cli import aphrodite, refused
from tests.support.processor import seconds_over_a_bare_interpreter

NAMES = [command.name for command in COMMANDS]


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["bench"], ["bench", "--help"]], ids=" ".join)
def test_pages_above_commands_are_short(words: list[str]) -> None:
    run = aphrodite(*words)
    lines = run.stdout.splitlines()
    assert (run.returncode, run.stderr) == (0, "")
    assert 3 < len(lines) <= 40 and max(map(len, lines)) <= 80
    assert all(name in run.stdout for name in NAMES if not words or words[0] != "bench" or name.startswith("bench"))


@pytest.mark.parametrize("name", NAMES)
def test_a_first_page_is_short_and_names_every_group(name: str) -> None:
    run = aphrodite(*name.split(), "--help")
    lines = run.stdout.splitlines()
    assert (run.returncode, run.stderr) == (0, "")
    assert len(lines) <= 40 and max(map(len, lines)) <= 80, run.stdout
    command = next(command for command in COMMANDS if command.name == name)
    for entry in command.own.entries:
        assert f"  {entry.flag}" in run.stdout
    for group in command.groups:
        assert f"\n  {group.name} " in run.stdout


@pytest.mark.parametrize("name", NAMES)
def test_help_all_shows_each_flag_with_default_variable_and_key(name: str) -> None:
    command = next(command for command in COMMANDS if command.name == name)
    page = " ".join(aphrodite(*name.split(), "--help", "all").stdout.split())
    for entry in command.entries:
        if entry.flag is None:
            continue
        assert entry.flag.removeprefix("--") in page
        if entry.key:
            assert f"key {entry.key}]" in page and f"default {entry.default_of(command.defaults)};" in page
        if entry.env:
            assert f"env {entry.env};" in page
    assert max(map(len, aphrodite(*name.split(), "--help", "all").stdout.splitlines())) <= 80


def test_help_finds_a_group_a_command_or_a_word() -> None:
    page = aphrodite("generate", "--help", "cache").stdout
    assert "--num-blocks" in page and "--temperature" not in page
    assert aphrodite("--help", "cache").stdout == page
    assert aphrodite("generate", "--help=cache").stdout == page
    assert aphrodite("--help", "bench latency").stdout == aphrodite("bench", "latency", "--help").stdout
    assert aphrodite("--help", "bench").stdout == aphrodite("bench").stdout
    assert aphrodite("--help", "explain").stdout == aphrodite("explain", "--help").stdout
    page = aphrodite("generate", "--help", "penalty").stdout
    assert page.count("\n  --") == 3  # repetition, frequency, presence
    assert "--stop-token-ids" in aphrodite("--help", "stop-token").stdout
    assert "--stop-token-ids" in aphrodite("--help", "STOP_TOKEN").stdout
    assert "--device" in aphrodite("--help", "APHRODITE_TARGET_DEVICE").stdout
    assert all(f"{group.name}: {group.about}" in aphrodite("--help", "all").stdout for group in GROUPS)
    assert "--temperature" not in aphrodite("explain", "--help", "all").stdout  # it takes none


def test_a_word_that_nothing_has_is_answered_with_the_nearest() -> None:
    refused(aphrodite("generate", "--help", "temperatuur"), 2, "temperatuur", "did you mean temperature?")
    refused(aphrodite("--help", "schedulr"), 2, "did you mean scheduler")
    refused(aphrodite("--help", "zzzzzz"), 2, "zzzzzz", "groups are")


def test_wrong_words_are_answered_with_the_nearest() -> None:
    refused(aphrodite("generaat"), 2, "there is no command 'generaat'; did you mean generate?")
    refused(aphrodite("serve"), 2, "there is no command 'serve'", "generate, chat, run, explain, plugins, bench, env")
    refused(aphrodite("bench", "speed"), 2, "latency, throughput", "'speed'")
    refused(aphrodite("generate", "m", "--temperatuur", "1"), 2, "--temperatuur; did you mean --temperature?")
    refused(aphrodite("generate", "m", "--temp=1"), 2, "has no flag --temp")  # no abbreviations: flags will be added
    refused(aphrodite("explain", "m", "--temperature", "1"), 2, "explain has no flag", "belongs to generate")
    refused(aphrodite("generate", "m", "n", "--prompt", "a"), 2, "one MODEL", "'n'")
    refused(aphrodite("plugins", "m"), 2, "no argument", "'m'")
    refused(aphrodite("generate", "--prompt", "a"), 2, "needs a MODEL")
    refused(aphrodite("generate", "m", "--prompt"), 2, "--prompt needs a value", "--prompt=-...")
    refused(aphrodite("generate", "m", "--prompt", "-x"), 2, "--prompt=-...")
    refused(aphrodite("--json"), 2, "a command comes first", "--json")


def test_the_version_is_the_package_s() -> None:
    assert aphrodite("--version").stdout == f"aphrodite {__version__}\n"


def test_help_imports_no_torch_and_answers_at_once() -> None:
    code = "import sys; from aphrodite.cli.main import main; main(sys.argv[1:]); print(sorted(sys.modules))"
    for words in (["--help"], ["generate", "--help"], ["bench", "throughput", "--help"], ["--help", "temperature"]):
        run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        loaded = run.stdout.splitlines()[-1]
        for module in ("torch", "numpy", "yaml", "rich", "huggingface_hub", "jinja2", "tokenizers"):
            assert f"'{module}'" not in loaded, module
    took = seconds_over_a_bare_interpreter([sys.executable, "-m", "aphrodite.cli.main", "chat", "--help"])
    assert took <= 0.3, took
