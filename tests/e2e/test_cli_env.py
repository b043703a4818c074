"""`aphrodite env`: what a report needs, and nothing that others should not read."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import subprocess
import sys

import pytest

from aphrodite.cli.scrub import REMOVED, USER, Scrubber
from tests.support.cli import aphrodite

SECRETS = {
    "HF_TOKEN": "hf_AbCdEfGhIjKlMnOp",
    "APHRODITE_API_KEYS": "first-key-123,second-key-456",
    "MY_DB_PASSWORD": "correct horse",
    "HF_ENDPOINT": "https://alice:opensesame@hub.example",
}


def test_it_names_versions_machine_and_plugins() -> None:
    document = json.loads(aphrodite("env", "--json", APHRODITE_PLUGINS="-toy").stdout)
    assert document["schema"] == "aphrodite.env/1"
    assert document["python"]["version"] == platform.python_version()
    for package in ("aphrodite-core", "torch", "numpy", "tokenizers"):
        assert document["packages"][package] == importlib.metadata.version(package)
    assert {report["name"]: report["state"] for report in document["plugins"]} == {"cpu": "ready", "toy": "disabled"}
    assert document["machine"]["num_cpus"] >= document["machine"]["num_usable_cpus"] >= 1
    assert document["environment"]["APHRODITE_PLUGINS"] == "-toy"


def test_the_text_has_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = aphrodite("env").stdout
    assert f"torch                    {importlib.metadata.version('torch')}" in text
    assert "cpu                      ready" in text


def test_secrets_and_the_user_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/people/alice")
    monkeypatch.setenv("USER", "alice")
    monkeypatch.setenv("LOGNAME", "alice")
    monkeypatch.setenv("APHRODITE_CACHE", "/srv/people/alice/models/second-key-456")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for words in (("env",), ("env", "--json")):
        text = aphrodite(*words).stdout
        for secret in ("AbCdEf", "first-key", "second-key", "correct horse", "opensesame", "alice", "/srv/people"):
            assert secret not in text, secret
    values = json.loads(text)["environment"]
    assert (values["HF_TOKEN"], values["APHRODITE_API_KEYS"]) == ("set", "set")
    assert values["APHRODITE_CACHE"] == f"~/models/{REMOVED}"
    assert values["HF_ENDPOINT"] == f"https://{REMOVED}@hub.example"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("|home|bob|x and |Users|carol|y", f"|home|{USER}|x and |Users|{USER}|y"),
        (r"C:\Users\dan\z", rf"C:\Users\{USER}\z"),
        ("/data/alice/models", f"/data/{USER}/models"),
        ("/data/alice", f"/data/{USER}"),
        ("malice in /data/malice", "malice in /data/malice"),
        ("cannot open '/srv/alice/lib.so'", "cannot open '~/lib.so'"),
        ("/srv/alicedata /x/srv/alice2", "/srv/alicedata /x/srv/alice2"),
        ("token hf_abcdefghij0123 sk-abcdefgh1234", f"token {REMOVED} {REMOVED}"),
        ("index-url https://u:p@host/simple", f"index-url https://{REMOVED}@host/simple"),
        ("no secret here: half_a_token", "no secret here: half_a_token"),
    ],
)
def test_texts_are_cleaned(text: str, clean: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/alice")
    for name in ("LOGNAME", "USER"):
        monkeypatch.setenv(name, "alice")
    text, clean = (one.replace("|", "/") for one in (text, clean))  # written so that no test takes them for our machine
    assert Scrubber({"A_KEY": "abc"}).text(text) == clean  # a secret as short as that would hit innocent text


def test_it_takes_less_than_five_seconds() -> None:
    """Of the processor: it waits for nothing, and what else runs on this machine is not to count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run([sys.executable, "-m", "aphrodite.cli.main", "env"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0 and run.stderr == ""
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 5
