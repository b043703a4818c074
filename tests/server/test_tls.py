"""Connections over TLS: what ends them, and when."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from aphrodite.server import ending
from aphrodite.server.body import Limits
from tests.server.certificates import both_ends
from tests.server.serving import Serving, serving

MODELS = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return both_ends(tmp_path_factory.mktemp("certificates"))


@contextmanager
def connected(server: Serving, client: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 10)
        raw.connect(("127.0.0.1", server.port))
        raw.settimeout(5)
        with client.wrap_socket(raw, server_hostname="localhost") as sock:
            yield sock


def everything(sock: socket.socket) -> bytes:
    found = b""
    with suppress(ConnectionResetError, ssl.SSLEOFError):
        while part := sock.recv(1 << 16):
            found += part
    return found


@pytest.mark.parametrize("line", [b"", b"connection: close\r\n"], ids=["stays", "closes"])
def test_a_whole_answer_that_nobody_reads_is_dropped(
    folder: Path, ends: tuple[ssl.SSLContext, ssl.SSLContext], line: bytes
) -> None:
    """What a client takes slowly is waited for; of what it does not take, nothing is kept."""
    body = b'{"tokens": [%s]}' % b",".join([b"7"] * 600_000)
    head = b"POST /detokenize HTTP/1.1\r\nhost: a\r\n%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with (
        serving(folder, tls=ends[0], limits=Limits(unread_s=0.5)) as server,
        connected(server, ends[1]) as sock,
    ):
        sock.sendall(head % (line, len(body)) + body)
        taken, until = b"", time.monotonic() + 1.5
        while time.monotonic() < until:  # slowly, for longer than nothing may be taken
            taken += sock.recv(2000)
            time.sleep(0.03)
        length = int(taken.lower().partition(b"content-length: ")[2].split()[0])
        time.sleep(1.5)
        taken += everything(sock)
        assert 20_000 < len(taken) < length - 100_000


def test_a_client_that_has_all_and_confirms_no_end_is_not_waited_for(
    folder: Path, ends: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "_CONFIRM_S", 0.2)
    with serving(folder, tls=ends[0]) as server, connected(server, ends[1]) as sock:
        sock.sendall(MODELS.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert everything(sock).startswith(b"HTTP/1.1 200 ")
        raw = socket.socket(fileno=sock.detach())  # without a word
        with raw:
            time.sleep(0.5)
            num_sent = 0
            with suppress(BrokenPipeError, ConnectionResetError):
                while num_sent < 5:
                    raw.sendall(b"x")
                    num_sent += 1
                    time.sleep(0.05)
            assert num_sent < 5, "the other end is there"


def test_handshakes_have_a_deadline_and_hold_up_nobody(
    folder: Path, ends: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture
) -> None:
    hello = b"\x16\x03\x01\x02\x00\x01"
    with serving(folder, tls=ends[0], limits=Limits(head_s=1.0)) as server, ExitStack() as stack:
        began = time.monotonic()
        socks = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(200)]
        for place, byte in enumerate(hello):  # a byte now and then, by every other
            for sock in socks[::2]:
                sock.sendall(b"%c" % byte)
            if place == 2:
                with connected(server, ends[1]) as sock:
                    sock.sendall(MODELS)
                    assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.05)
        for one in socks:
            one.settimeout(3)
            with suppress(ConnectionResetError):
                assert one.recv(1) == b""
        assert time.monotonic() - began < 3
    assert not caplog.records


@pytest.mark.parametrize("said", [b"\xff" * 500, MODELS, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"], ids=range(3))
def test_what_is_no_tls_is_let_go_of_without_a_line(
    folder: Path, ends: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    with (
        serving(folder, tls=ends[0]) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=3) as sock,
    ):
        sock.sendall(said)
        assert b"HTTP" not in everything(sock)
    assert not caplog.records


def test_a_client_that_leaves_without_a_word_is_noticed(
    folder: Path, ends: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    with serving(folder, tls=ends[0]) as server:
        with connected(server, ends[1]) as sock:
            body = b'{"prompt": "a", "max_tokens": 400, "ignore_eos": true, "stream": true}'
            sock.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(body), body)
            )
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
            socket.socket(fileno=sock.detach()).close()
        until = time.monotonic() + 2
        while server.engine.live and time.monotonic() < until:
            time.sleep(0.01)
        assert not server.engine.live
