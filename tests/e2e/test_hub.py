"""Models by their hub name, against a stand-in of the hub on this machine (FAKE: the protocol, not the service)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.support.checkpoints import Checkpoints

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STATUS = {"busy": 429, "broken": 500, "closed": 403}
OFFLINE = """
import sys
from aphrodite.cli.main import main
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print(event, arguments, file=sys.stderr)
sys.addaudithook(watch)
sys.exit(main(["generate", *sys.argv[1:], "--offline", "--token-ids", "1,5", "--max-tokens", "2"]))
"""
LOCATE = """
import json, sys
from pathlib import Path
from aphrodite.errors import AphroditeError
from aphrodite.weights.hub import Fetch, locate
for model, options in json.loads(sys.argv[2]):
    try:
        print(locate(model, Fetch(cache=Path(sys.argv[1]), **options)))
    except AphroditeError as error:
        print(f"{error.exit_code} {error}")
"""


class Hub(BaseHTTPRequestHandler):
    """A hub whose repository acme/tiny has a folder's files, as acme/private does for who has the token "right-token".

    acme/gated is gated, acme/licensed shows what files it has and gates those; acme/busy, acme/broken and acme/closed
    answer 429, 500 and 403; the rest is unknown.
    log  gets the path of every request
    """

    protocol_version = "HTTP/1.1"
    folder: Path
    log: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.log.append(path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", "right-token"):
            self.send(401, b"{}", body, message="Invalid credentials in Authorization header")
        elif "acme/private" in path and token == "":
            self.send(401, b"{}", body, "RepoNotFound")
        elif "acme/gated" in path:
            self.send(403, b"{}", body, "GatedRepo")
        elif status := next((code for name, code in STATUS.items() if f"acme/{name}" in path), None):
            self.send(status, b"{}", body)
        elif "/acme/licensed" in path and "/resolve/" in path:
            self.send(403, b"{}", body, "GatedRepo")
        elif any(f"/acme/{name}" in path for name in ("tiny", "private", "licensed")):
            self.repository(path, body)
        else:
            self.send(404, b"{}", body, "RepoNotFound")

    def repository(self, path: str, body: bool) -> None:
        name = path.rpartition("/")[2]
        sizes = {file.name: file.stat().st_size for file in sorted(self.folder.iterdir())} | {"spare.bin": 1}
        if path.endswith("/revision/no-such"):
            self.send(404, b"{}", body, "RevisionNotFound")
        elif path.startswith("/api/") and "/tree/" in path:
            tree = [{"type": "file", "path": file, "size": size, "oid": "0"} for file, size in sizes.items()]
            self.send(200, json.dumps(tree).encode(), body)
        elif path.startswith("/api/"):
            files = [{"rfilename": file} for file in sizes]
            info = {"id": "acme/tiny", "modelId": "acme/tiny", "sha": COMMIT, "siblings": files, "tags": []}
            self.send(200, json.dumps(info).encode(), body)
        elif "/resolve/" in path and (self.folder / name).is_file():
            self.send(200, (self.folder / name).read_bytes(), body)
        else:
            self.send(404, b"{}", body, "EntryNotFound")

    def send(self, status: int, data: bytes, body: bool, error: str = "", message: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (("X-Error-Code", error), ("X-Error-Message", message)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class StandIn:
    """A running hub: its address, and the paths that were asked for."""

    address: str
    log: list[str]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StandIn]:
    class Here(Hub):
        folder = Checkpoints(tmp_path / "models").llama()
        log: ClassVar[list[str]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield StandIn(f"http://127.0.0.1:{server.server_port}", Here.log)
    server.shutdown()
    server.server_close()
    thread.join()


NOWHERE = "http://127.0.0.1:9"


def run(address: str, cache: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python with that hub and an empty cache of downloads."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": address, "APHRODITE_CACHE": str(cache), "HF_HOME": str(cache), **env}
    environment |= {"HF_HUB_DISABLE_XET": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, timeout=120)


def aphrodite(address: str, cache: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run(address, cache, "-m", "aphrodite.cli.main", *words, **env)


def generate(address: str, cache: Path, model: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    prompt = ("--token-ids", "1,5", "--max-tokens", "2")
    return aphrodite(address, cache, "generate", model, *prompt, *flags, **env)


def located(address: str, cache: Path, *asked: tuple[str, dict[str, object]], **env: str) -> list[str]:
    """What `locate` gives for each model, or its exit code and message, from one process that prints nothing else."""
    found = run(address, cache, "-c", LOCATE, str(cache), json.dumps(asked), **env)
    assert (found.returncode, found.stderr) == (0, ""), found.stderr
    return found.stdout.splitlines()


def test_a_model_is_downloaded_by_name_once_and_then_found_without_the_hub(hub: StandIn, tmp_path: Path) -> None:
    first = generate(hub.address, tmp_path / "cache", "acme/tiny")
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith("cpu: ") and first.stderr.count("\n") == 1, "the line about the machine alone"
    downloaded = {path.name for path in (tmp_path / "cache").rglob(f"snapshots/{COMMIT}/*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= downloaded
    assert "spare.bin" not in downloaded  # pickles are not even fetched
    num_requests = len(hub.log)
    again = run(hub.address, tmp_path / "cache", "-c", OFFLINE, "acme/tiny")
    assert (again.returncode, again.stderr) == (0, first.stderr)  # it tells of every connection
    assert again.stdout == first.stdout
    assert len(hub.log) == num_requests
    unreachable = generate(NOWHERE, tmp_path / "cache", "acme/tiny")
    assert unreachable.stdout == first.stdout, unreachable.stderr


def test_a_model_is_explained_and_tried_without_its_weights_being_fetched(hub: StandIn, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    explained = aphrodite(hub.address, cache, "explain", "acme/tiny", "--json")
    assert explained.returncode == 0, explained.stderr
    tried = generate(hub.address, cache, "acme/tiny", "--load-format", "dummy")
    assert tried.returncode == 0, tried.stderr
    assert not any("safetensors" in path for path in hub.log)
    refused = generate(hub.address, cache, "acme/tiny", "--offline")
    assert refused.returncode == 4
    assert "offline forbids to fetch" in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(hub: StandIn, tmp_path: Path) -> None:
    expected = {
        "acme/absent": "is not on the hub (or is private: set HF_TOKEN",
        "acme/private": "is not on the hub (or is private: set HF_TOKEN",
        "acme/gated": "is gated: accept its licence",
        "acme/licensed": "is gated: accept its licence",
        "a b/c": "is no folder and no name the hub accepts",
        "acme/busy": "HTTP 429",
        "acme/broken": "HTTP 500",
        "acme/closed": "set HF_TOKEN to a valid token",
    }
    said = located(hub.address, tmp_path / "cache", *((model, {}) for model in expected))
    assert len(said) == len(expected)
    for (model, part), line in zip(expected.items(), said, strict=True):
        assert line.startswith(f"4 model {model!r} ") and part in line, line


def test_the_command_ends_with_4_and_one_line(hub: StandIn, tmp_path: Path) -> None:
    refused = generate(hub.address, tmp_path / "cache", "acme/gated")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert refused.stderr.startswith("aphrodite: error: model 'acme/gated' is gated")
    assert len(refused.stderr.splitlines()) == 1


def test_a_token_opens_a_private_model_and_is_never_printed(hub: StandIn, tmp_path: Path) -> None:
    (found,) = located(hub.address, tmp_path / "cache", ("acme/private", {}), HF_TOKEN="right-token")
    assert (Path(found) / "config.json").is_file()
    (refused,) = located(hub.address, tmp_path / "other", ("acme/tiny", {}), HF_TOKEN="wrong-token")
    assert refused.startswith("4 ") and "HF_TOKEN" in refused and "wrong-token" not in refused


def test_a_revision_is_asked_for_by_name_and_missed_by_name(hub: StandIn, tmp_path: Path) -> None:
    asked = [("acme/tiny", {"revision": name}) for name in ("v1", "no-such")]
    found, missed = located(hub.address, tmp_path / "cache", *asked)
    assert Path(found).name == COMMIT
    assert "/api/models/acme/tiny/revision/v1" in hub.log
    assert missed.startswith("4 model 'acme/tiny' has no revision 'no-such'")


def test_without_a_connection_the_message_says_that_nothing_is_cached(hub: StandIn, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    unreachable, offline, revision = located(
        NOWHERE,
        cache,
        ("acme/tiny", {}),
        ("acme/tiny", {"offline": True}),
        ("acme/tiny", {"offline": True, "revision": "v2"}),
    )
    assert "not in the download cache" in unreachable and "the hub cannot be reached" in unreachable
    assert "not in the download cache" in offline and "run once without it" in offline
    assert "revision 'v2'" in revision
    assert hub.log == []
    (switched_off,) = located(hub.address, cache, ("acme/tiny", {}), HF_HUB_OFFLINE="1")
    assert switched_off.startswith("4 ") and "HF_HUB_OFFLINE" in switched_off
    assert hub.log == []


def test_a_download_that_was_cut_short_is_not_taken_for_a_model(hub: StandIn, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (found,) = located(hub.address, cache, ("acme/tiny", {}))
    (Path(found) / "model.safetensors").unlink()
    (offline,) = located(hub.address, cache, ("acme/tiny", {"offline": True}))
    assert offline.startswith("4 model 'acme/tiny' ")
    again, whole = located(hub.address, cache, ("acme/tiny", {}), ("acme/tiny", {"offline": True}))
    assert again == whole == found and (Path(found) / "model.safetensors").is_file()
