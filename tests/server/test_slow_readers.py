"""Clients that stop reading, over an engine that computes: their sequences stop, nobody else's do, no token is lost."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from aphrodite.engine.engine import Engine
from aphrodite.engine.host import FixedHost, Model
from aphrodite.engine.local import LocalEngine
from aphrodite.server.body import Limits
from aphrodite.types.stats import EngineStats
from tests.server.crowded import looked_at
from tests.server.process import running
from tests.server.serving import Serving, serving
from tests.support.checkpoints import Checkpoints
from tests.support.waiting import until

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
# Many bytes a token: 0.5 MB in all, of which 0.2 MB fit between the engine and a client that does not read.
ASKED: dict[str, Any] = {
    "prompt": "The engine",
    "n": 4,
    "temperature": 1,
    "seed": 5,
    "max_tokens": 200,
    "ignore_eos": True,
    "logprobs": 10,
    "stream": True,
}
NUM_TOKENS = 4 * 200


@pytest.fixture(scope="module")
def model(checkpoints: Checkpoints) -> Path:
    return checkpoints.llama()


def opened(port: int, *, deaf: bool = True, **changes: Any) -> socket.socket:
    """A client that asks and reads nothing, and, if it is deaf, whose system keeps little for it."""
    body = json.dumps({**ASKED, **changes}).encode()
    sock = socket.socket()
    if deaf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 10)
    sock.settimeout(60)
    sock.connect(("127.0.0.1", port))
    sock.sendall(HEAD % (len(body), body))
    return sock


def frames(sock: socket.socket) -> list[Any]:
    """The frames of an answer, read to its end."""
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        part = sock.recv(1 << 16)
        assert part, data[-200:]
        data += part
    body, rest = b"", data.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size, 16)
        body, rest = body + rest[:count], rest[count + 2 :]
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    assert lines.pop() == b"[DONE]"
    return [json.loads(line) for line in lines]


def texts(found: list[Any]) -> list[str]:
    """The continuations that frames make up."""
    parts = [""] * 4
    for frame in found:
        for choice in frame["choices"]:
            parts[choice["index"]] += choice["text"]
    return parts


class Engaged:
    """A server over an engine that computes, in this process."""

    def __init__(self, server: Serving, local: LocalEngine) -> None:
        self.port = server.port
        self.server = server
        self.local = local

    @property
    def stats(self) -> EngineStats:
        return self.local.loop.call(Engine.stats)

    def check(self) -> None:
        """Nothing is left of any request."""
        until(lambda: not self.server.service.runs and not self.local.loop.call(lambda engine: engine.has_work))
        self.local.loop.call(Engine.check)
        found = self.stats
        assert found.kv_blocks_free == found.kv_blocks_total and not found.num_held


@contextmanager
def engaged(model: Path, stall_s: float, **settings: Any) -> Iterator[Engaged]:
    local = LocalEngine(str(model), None, {"device": "cpu", "dtype": "float32", "num_blocks": 400, **settings})
    try:
        host = FixedHost(Model(local.loop, local.frontend))
        with serving(model, host=host, app={"stall_s": stall_s}) as server:
            yield Engaged(server, local)
    finally:
        local.close()


@pytest.mark.parametrize("settings", [{}, {"enable_prefix_caching": False, "num_blocks": 40}])
def test_a_reader_that_stops_stops_its_own_sequences_and_gets_the_same_in_the_end(
    model: Path, settings: dict[str, Any]
) -> None:
    with engaged(model, 60, **settings) as found:
        with opened(found.port, deaf=False) as eager:
            alone = texts(frames(eager))
        with opened(found.port) as idle:
            until(lambda: found.stats.num_held == 4)
            before = found.stats
            assert before.num_running == before.num_waiting == 0
            assert before.kv_blocks_free == before.kv_blocks_total, "it holds nothing that others may need"
            time.sleep(0.3)
            assert found.stats.num_steps == before.num_steps, "no step is spent on it"
            with opened(found.port, deaf=False, seed=6) as other:  # takes all blocks, if they are few
                assert len(frames(other)) > 4
            assert found.stats.num_held == 4
            (run,) = found.server.service.runs
            assert run.usage.completion_tokens < NUM_TOKENS
            assert texts(frames(idle)) == alone
        found.check()


def test_a_reader_that_never_goes_on_is_told_so_and_what_it_held_is_free(model: Path) -> None:
    with engaged(model, 1.0) as found, opened(found.port) as idle:
        told = b'aphrodite:clients_too_slow_total{model_name="tiny"} 1.0'
        until(lambda: told in found.server.service.metrics.text())
        found.check()
        *parts, error = frames(idle)  # it comes back after all, before the connection is cut
        assert parts and error["error"]["code"] == "client_too_slow"
        assert all(choice["finish_reason"] is None for part in parts for choice in part["choices"])
        assert idle.recv(1) == b"", "and the connection ends"


def test_a_reader_that_leaves_while_its_sequences_are_held_frees_them(model: Path) -> None:
    with engaged(model, 60) as found:
        with opened(found.port):
            until(lambda: found.stats.num_held == 4)
        found.check()


def test_a_deadline_ends_sequences_whose_reader_is_not_there_to_hear_of_it(model: Path) -> None:
    with engaged(model, 60) as found, opened(found.port) as idle:
        until(lambda: found.stats.num_held == 4)
        (run,) = found.server.service.runs
        found.server.loop.call_soon_threadsafe(lambda: run.expire_at(run.now_s(), 4.0))
        until(lambda: not found.stats.num_held)
        assert frames(idle)[-1]["error"]["code"] == "deadline_exceeded"
        found.check()


def test_a_server_that_is_told_to_end_does_not_wait_for_readers_that_have_stopped(model: Path, tmp_path: Path) -> None:
    flags = ("--device", "cpu", "--num-blocks", "400", "--shutdown-timeout", "1")
    with running(model, tmp_path / "log", *flags) as server, opened(server.port):

        def is_held() -> bool:
            found = httpx.get(f"{server.url}/metrics").text
            return f'aphrodite:num_requests_held{{model_name="{model.name}"}} 4.0' in found

        until(is_held)
        asked = {"prompt": "another", "max_tokens": 8, "temperature": 0}
        assert httpx.post(f"{server.url}/v1/completions", json=asked).status_code == 200
        assert is_held()
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(20) == 0, "a second, not the minute that readers have"


@pytest.mark.parametrize("keeps_alive", [True, False])
def test_a_whole_answer_that_nobody_reads_is_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, keeps_alive: bool
) -> None:
    """What a client takes slowly is waited for; of what it does not take, nothing is kept."""
    body = json.dumps({"tokens": [295] * 400_000}).encode()
    path, line = (b"/detokenize", b"" if keeps_alive else b"connection: close\r\n")
    head = HEAD.replace(b"/v1/completions", path).replace(b"host: a\r\n", b"host: a\r\n" + line)
    with serving(folder, limits=Limits(unread_s=0.3)) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 10)
        sock.connect(("127.0.0.1", server.port))
        with looked_at(monkeypatch, sock, num_times=4) as taker:  # slowly, for longer than nothing may be taken
            sock.sendall(head % (len(body), body))
            until(lambda: taker.is_cut)
        taken = taker.taken
        length = int(taken.lower().partition(b"content-length: ")[2].split()[0])
        assert len(taken) > 300_000
        with suppress(ConnectionResetError):
            while part := sock.recv(1 << 16):
                taken += part
        assert len(taken) < length - 1_000_000
