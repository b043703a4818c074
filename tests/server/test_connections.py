"""One connection and several requests: each answer is the next request's only when all of the one before is over."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from aphrodite.engine.host import FixedHost, Health
from aphrodite.server import listener
from aphrodite.server.body import Limits
from tests.server.crowded import POST, full, looked_at, received, slowly
from tests.server.engine import ScriptedEngine
from tests.server.serving import serving
from tests.support.waiting import until

BODY = b'{"prompt": "a", "stream": true}'
STREAM = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
MODELS = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"


def briefly(request: Any) -> Iterator[int | float | str]:
    """Eight tokens in 0.2 s."""
    for _ in range(8):
        yield request.prompt_token_ids[-1]
        yield 0.025
    yield "length"


@pytest.mark.parametrize("is_full", [True, False])
def test_an_answer_that_comes_before_the_body_leaves_no_connection_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    monkeypatch.setattr(listener, "_KEEP_ALIVE_S", 0.5)
    made = full(folder) if is_full else serving(folder, keys=("k",))
    with made as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(POST + b"content-length: 4\r\n\r\n")
        received(sock, b'"}}')
        sock.sendall(b"null")
        assert received(sock) == b"", "it is closed, as any that is idle"


def test_bytes_of_a_body_that_nobody_wants_are_no_request(folder: Path) -> None:
    with full(folder) as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(POST + b"content-length: %d\r\n\r\n" % len(MODELS))
        received(sock, b'"}}')
        sock.sendall(MODELS)
        sock.sendall(MODELS.replace(b"\r\n\r\n", b"\r\nx-request-id: next\r\nconnection: close\r\n\r\n"))
        found = received(sock)
        assert found.count(b"HTTP/1.1 200 ") == found.count(b"HTTP/1.1 ") == found.count(b"x-request-id: next") == 1


@pytest.mark.parametrize("is_full", [True, False])
def test_who_waits_to_send_a_body_and_is_refused_cannot_send_a_request_in_its_place(
    folder: Path, is_full: bool
) -> None:
    made = full(folder) if is_full else serving(folder, keys=("k",))
    with made as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(POST + b"expect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        found = received(sock)
        assert found.count(b"HTTP/1.1 ") == 1 and found.startswith(b"HTTP/1.1 429" if is_full else b"HTTP/1.1 401")


def test_a_request_has_one_answer_whatever_its_body_turns_out_to_be(folder: Path) -> None:
    with full(folder) as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(POST + b"transfer-encoding: chunked\r\n\r\n")
        received(sock, b'"}}')
        sock.sendall(b"no number\r\n")
        assert received(sock) == b""


@pytest.mark.parametrize("begins", [POST, POST + b"x-request-id: me\r\n", MODELS[:-2]], ids=["door", "route", "models"])
def test_answers_that_nobody_reads_do_not_pile_up(folder: Path, begins: bytes) -> None:
    """Whoever sends on without reading is not read any more."""
    request = begins + b"x-filler: %s\r\ncontent-length: 0\r\n\r\n" % (b"x" * 4000)
    with full(folder) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(1)
        sent = 0
        with suppress(TimeoutError):
            while sent < 10_000:
                sock.sendall(request)
                sent += 1
        assert sent < 5_000, "2 MB of answers or so"


@pytest.mark.parametrize(
    "bad",
    [
        b"no HTTP\r\n\r\n",
        MODELS.replace(b"host", b"host "),
        POST + b"transfer-encoding: chunked\r\n\r\nno number\r\n",
        MODELS + POST + b"transfer-encoding: chunked\r\n\r\nno number\r\n",
    ],
    ids=range(4),
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_bad_request_is_refused_when_all_before_it_is_answered(folder: Path, bad: bytes, at_once: bool) -> None:
    engine = ScriptedEngine(briefly)
    with serving(folder, engine) as server, socket.create_connection(("127.0.0.1", server.port), timeout=3) as sock:
        sock.sendall(STREAM + (bad if at_once else b""))
        found = received(sock, b"data: ")
        if not at_once:
            sock.sendall(bad)
        found += received(sock)
        stream, *others, last = found.split(b"HTTP/1.1 ")[1:]
        assert stream.startswith(b"200 ") and stream.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") and not engine.aborted
        assert len(others) == bad.count(MODELS) and all(one.startswith(b"200 ") for one in others)
        assert last.startswith(b"400 ") and last.endswith(b'"code":"invalid_http"}}')


def test_a_client_that_leaves_with_a_request_behind_its_stream_is_noticed(folder: Path) -> None:
    engine = ScriptedEngine(slowly)
    with serving(folder, engine) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            sock.sendall(STREAM)
            received(sock, b"data: ")
            sock.sendall(MODELS)
            time.sleep(0.1)
        until(lambda: not engine.live)
        assert len(engine.aborted) == 1


def test_a_client_that_takes_the_next_answer_slowly_is_not_one_that_takes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of one answer is compared with what is left later: that may be of another, and more."""
    with serving(folder, limits=Limits(unread_s=0.3)) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 10)
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(30)
        small, large = (b'{"tokens": [%s]}' % b",".join([b"295"] * count) for count in (100_000, 200_000))
        with looked_at(monkeypatch, sock, num_times=2, num_answers=2, and_then=False) as taker:
            for body in (small, large):
                head = POST.replace(b"/v1/completions", b"/detokenize") + b"content-length: %d\r\n\r\n" % len(body)
                sock.sendall(head + body)
            until(lambda: not taker.num_left)
            found = taker.taken
            while len(found) < 8 * (100_000 + 200_000):
                part = sock.recv(1 << 16)
                assert part, "the connection was cut"
                found += part


def test_a_full_queue_before_an_engine_that_stands_still_says_that_it_does(folder: Path) -> None:
    with full(folder) as server:
        server.service.host = FixedHost(server.service.model, Health.STALLED)
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_stalled")
        server.service.is_draining = True
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")


@pytest.mark.parametrize("parts", ["one", "two", "bytes"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_that_offers_another_protocol_is_taken_with_its_body(folder: Path, parts: str, chunked: bool) -> None:
    """As clients of HTTP/2 send it over plain connections, Java's for one."""
    body = b'{"prompt": "a b", "max_tokens": 2}'
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    head = POST + offer + framing + b"\r\n\r\n"
    get = MODELS.replace(b"\r\n\r\n", b"\r\n" + offer + b"\r\n")
    last = MODELS.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    whole = [head, sent + head + sent + get + last]
    if parts == "one":
        whole = [b"".join(whole)]
    elif parts == "bytes":
        whole = [b"%c" % byte for byte in b"".join(whole)]
    with serving(folder) as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in whole:
            sock.sendall(part)
            time.sleep(0.05 if parts == "two" else 0)
        found = received(sock)
        assert found.count(b"HTTP/1.1 200 ") == found.count(b"HTTP/1.1 ") == 4
        assert found.count(b'"finish_reason":"length"') == 2 and found.count(b'"object":"list"') == 2


def test_an_answer_is_here_before_the_system_would_have_waited_for_more(folder: Path) -> None:
    """A head and a body are two packets: the second does not wait until the first is acknowledged."""
    with serving(folder) as server, httpx.Client() as client:
        took_s = []
        for _ in range(40):
            began = time.monotonic()
            assert client.post(f"{server.url}/detokenize", json={"tokens": [5]}).status_code == 200
            took_s.append(time.monotonic() - began)
        assert sorted(took_s)[20] < 0.03
