"""Models by their hub name, against a stand-in of the hub on this machine (FAKE: the protocol, not the service)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.checkpoints import Checkpoints

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    """A hub with one repository, acme/tiny, whose files are a folder's; acme/gated is gated, the rest is unknown."""

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            name = path.rpartition("/")[2]
            if path.startswith("/api/models/acme/tiny/tree"):
                sizes = {file.name: file.stat().st_size for file in folder.iterdir()} | {"spare.bin": 1}
                tree = [{"type": "file", "path": file, "size": size, "oid": "0"} for file, size in sizes.items()]
                self.send(200, json.dumps(tree).encode(), body)
            elif path.startswith("/api/models/acme/tiny"):
                files = [{"rfilename": file.name} for file in sorted(folder.iterdir())] + [{"rfilename": "spare.bin"}]
                info = {"id": "acme/tiny", "modelId": "acme/tiny", "sha": COMMIT, "siblings": files, "tags": []}
                self.send(200, json.dumps(info).encode(), body)
            elif path.startswith("/acme/tiny/resolve/") and (folder / name).is_file():
                self.send(200, (folder / name).read_bytes(), body)
            elif "acme/gated" in path:
                self.send(403, b"{}", body, "GatedRepo")
            else:
                self.send(404, b"{}", body, "RepoNotFound")

        def send(self, status: int, data: bytes, body: bool, error: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a stand-in hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(Checkpoints(tmp_path / "models").llama()))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def run(hub: str, cache: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python with that hub and an empty cache of downloads."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "APHRODITE_CACHE": str(cache), "HF_HOME": str(cache), **env}
    environment.pop("HF_TOKEN", None)
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, timeout=120)


def generate(hub: str, cache: Path, model: str, **env: str) -> subprocess.CompletedProcess[str]:
    flags = ("--token-ids", "1,5", "--max-tokens", "2", "--quiet")
    return run(hub, cache, "-m", "aphrodite.cli.main", "generate", model, *flags, **env)


def test_a_model_is_downloaded_by_name_once_and_then_found_without_the_hub(hub: str, tmp_path: Path) -> None:
    first = generate(hub, tmp_path / "cache", "acme/tiny")
    assert first.returncode == 0, first.stderr
    downloaded = {path.name for path in (tmp_path / "cache").rglob(f"snapshots/{COMMIT}/*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= downloaded
    assert "spare.bin" not in downloaded  # pickles are not even fetched
    again = generate("http://127.0.0.1:9", tmp_path / "cache", "acme/tiny", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("acme/absent", "is not on the hub"),
        ("acme/gated", "is gated: accept its licence"),
        ("a b/c", "no name the hub"),
    ],
)
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(hub: str, tmp_path: Path, model: str, says: str) -> None:
    refused = generate(hub, tmp_path / "cache", model)
    assert refused.returncode == 4, refused.stderr
    assert refused.stderr.startswith(f"aphrodite: error: model {model!r} ")
    assert says in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_without_a_connection_the_message_says_that_nothing_is_cached(tmp_path: Path) -> None:
    refused = generate("http://127.0.0.1:9", tmp_path / "cache", "acme/tiny", HF_HUB_OFFLINE="1")
    assert refused.returncode == 4
    assert "not in the download cache" in refused.stderr
