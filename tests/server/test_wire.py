"""What a connection makes of bytes by itself: where a request ends, what is refused before an application is asked, and
how a connection ends."""

from __future__ import annotations

import json
import re
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aphrodite.server import protocol
from aphrodite.server.body import Limits
from aphrodite.server.cycle import Cycle
from tests.server.crowded import POST, received, slowly
from tests.server.engine import ScriptedEngine
from tests.server.serving import Serving, serving
from tests.support.waiting import until

BODY = b'{"prompt": "a", "max_tokens": 2}'
CHUNKS = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
GET = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n"
LAST = GET + b"x-request-id: last\r\nconnection: close\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"


def asked(length: int, more: str = "") -> bytes:
    body = b'{"prompt": "a", "max_tokens": %d%s}' % (length, more.encode())
    return b"content-length: %d\r\n\r\n%s" % (len(body), body)


@contextmanager
def connected(server: Serving) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    with serving(folder, keys=("right",)) as found:
        yield found


# ---- what is refused ------------------------------------------------------------------------------------------------

BAD = {
    "two lengths": POST + b"content-length: 2\r\ncontent-length: 2\r\n\r\n{}",
    "a length and chunks": POST + b"content-length: 2\r\n" + CHUNKED + b"\r\n" + CHUNKS,
    "a coding before": POST + b"transfer-encoding: gzip, chunked\r\n\r\n" + CHUNKS,
    "a coding after": POST + b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKS,
    "identity": POST + b"transfer-encoding: identity, chunked\r\n\r\n" + CHUNKS,
    "two codings": POST + b"transfer-encoding: identity\r\n" + CHUNKED + b"\r\n" + CHUNKS,
    "another coding": POST + b"transfer-encoding: xchunked\r\n\r\n" + CHUNKS,
    "chunks of old": POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + CHUNKS,
    "no version": b"GET /v1/models\r\n\r\n",
    "version 2": GET.replace(b"1.1", b"2.0") + b"\r\n",
    "the preface of version 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a folded header": GET + b"x: a\r\n b\r\n\r\n",
    "a space before the colon": GET + b"x : a\r\n\r\n",
    "a zero": GET + b"x: a\0b\r\n\r\n",
    "bare line ends": GET.replace(b"\r\n", b"\n") + b"\n",
    "an authority": GET.replace(b"/v1/models", b"a:80") + b"\r\n",
    "no path": GET.replace(b"/v1/models", b"http://a") + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
}


@pytest.mark.parametrize("request_", BAD.values(), ids=BAD)
def test_what_may_be_read_in_two_ways_is_read_in_none(server: Serving, request_: bytes) -> None:
    with connected(server) as sock:
        sock.sendall(request_ + LAST)
        head, _, body = received(sock).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ") and head.count(b"x-request-id: ") == 1
        assert b"connection: close" in head and b"x-should-retry: false" in head
        assert json.loads(body)["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("path", [b"/v1/messages", b"/api/chat", b"/api/v1/generate", b"/v1/chat/completions"])
@pytest.mark.parametrize(
    ("more", "status"),
    [
        (b"x y: z\r\n", 400),
        (b"a: b\r\n" * 101, 431),
        (b"x: %s\r\n" % (b"y" * 17_000), 431),
        (CHUNKED + b"\r\n" + b"1;%s\r\nx\r\n" % (b"e" * 4000) * 600, 413),
        (b"?", 414),
    ],
    ids=[400, 431, 4311, 413, 414],
)
def test_a_refusal_of_the_wire_is_in_the_words_of_the_routes(
    server: Serving, path: bytes, more: bytes, status: int
) -> None:
    begin = POST.replace(b"/v1/completions", path + b"?%s" % (b"y" * 9000 * (status == 414)))
    begin += b"x-request-id: mine\r\nauthorization: Bearer right\r\n"
    no_key = begin.replace(b"right", b"wrong").replace(b"y" * 9000, b"") + b"connection: close\r\n\r\n"
    answers = []
    for request in (begin + more + b"\r\n", no_key):  # what is said without a key, the application says
        with connected(server) as sock:
            with suppress(BrokenPipeError):
                sock.sendall(request)
            head, _, body = received(sock).partition(b"\r\n\r\n")
            answers.append((head, json.loads(body)))
    (head, found), (_, wanted) = answers
    assert head.startswith(b"HTTP/1.1 %d " % status) and b"connection: close" in head
    assert b"x-request-id: mine" in head or status == 414
    assert found.keys() == wanted.keys()
    inner, wanted_inner = (next(iter(one.values())) for one in (found, wanted))
    assert type(inner) is type(wanted_inner)


@pytest.mark.parametrize(
    "line", [b" /v1/models HTTP/1.1\r\nx y: z", b" /%s HTTP/1.1" % (b"a" * 9000), b" a:80 HTTP/1.1"], ids=range(3)
)
def test_a_refusal_of_head_has_no_body(server: Serving, line: bytes) -> None:
    with connected(server) as sock:
        sock.sendall(b"HEAD" + line + b"\r\nhost: a\r\n\r\n")
        found = received(sock)
        assert found.startswith(b"HTTP/1.1 4") and found.endswith(b"\r\n\r\n") and b"content-length: " in found


def test_what_comes_after_the_body_is_no_header(server: Serving) -> None:
    """Whoever checks heads in front of us has not seen it."""
    trailers = b"authorization: Bearer right\r\nx-request-id: trailer\r\n\r\n"
    with connected(server) as sock:
        sock.sendall(POST + CHUNKED + b"\r\n" + CHUNKS + trailers)
        sock.sendall(LAST.replace(b"host", b"x-api-key: right\r\nhost"))
        found = received(sock)
        assert re.findall(rb"HTTP/1.1 (\d+) ", found) == [b"401", b"200"] and b"trailer" not in found


def test_a_client_of_the_old_version_gets_neither_chunks_nor_a_word_in_between(folder: Path) -> None:
    with serving(folder) as server, connected(server) as sock:
        old = POST.replace(b"1.1", b"1.0") + b"expect: 100-continue\r\n"
        sock.sendall(old + asked(3, ', "stream": true'))
        head, _, body = received(sock).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ") and b"transfer-encoding" not in head and b"connection: close" in head
        frames = body.split(b"\n\n")
        assert frames[-2:] == [b"data: [DONE]", b""] and all(one.startswith(b"data: ") for one in frames[:-1])


# ---- how much is read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/completions", "/health", "/nothing"])
@pytest.mark.parametrize("framing", [b"content-length: 99999999\r\n", CHUNKED, CHUNKED + b"x-chunks: small\r\n"])
def test_no_more_is_read_than_a_body_may_have(folder: Path, path: str, framing: bytes) -> None:
    limits = Limits(body_bytes=100_000)
    part = b"1;%s\r\nx\r\n" % (b"e" * 990) if b"small" in framing else b"3e0\r\n%s\r\n" % (b"x" * 992)
    with serving(folder, limits=limits) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(5)
        sock.sendall(POST.replace(b"/v1/completions", path.encode()) + framing + b"\r\n")
        sent = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 20_000_000:
                sent += sock.send(part)
        assert sent < 5_000_000, "what the system itself holds, and a little"
        assert received(sock).count(b"HTTP/1.1 ") == 1


def test_an_early_answer_can_be_read_by_who_is_still_sending(folder: Path) -> None:
    """Were the connection closed at once, the system would take the answer back."""
    with serving(folder, limits=Limits(body_bytes=1000)) as server:
        for framing in (b"content-length: 60000\r\n", CHUNKED):
            with connected(server) as sock:
                sock.sendall(POST + framing + b"\r\n" + (b"f000\r\n" if framing == CHUNKED else b""))
                for _ in range(6):
                    sock.sendall(b"x" * 10_000)  # no error, whenever it comes
                    time.sleep(0.03)
                sock.shutdown(socket.SHUT_WR)
                assert received(sock).startswith(b"HTTP/1.1 413 ")


def test_requests_behind_one_another_are_looked_at_as_their_turn_comes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live: weakref.WeakSet[Cycle] = weakref.WeakSet()
    most = 0

    class Counted(Cycle):
        def __init__(self, **settings: Any) -> None:
            nonlocal most
            super().__init__(**settings)
            live.add(self)
            most = max(most, len(live))

    monkeypatch.setattr(protocol, "Cycle", Counted)
    with serving(folder) as server, connected(server) as sock:
        small = b"GET /version HTTP/1.1\r\n\r\n"
        sock.sendall(small * 2000 + LAST)
        found = received(sock)
        assert found.count(b"HTTP/1.1 200 ") == found.count(b"HTTP/1.1 ") == 2001
        assert b"x-request-id: last" in found.rpartition(b"HTTP/1.1 ")[2]
        assert most < 1000


def test_a_body_that_turns_out_bad_is_told_and_counted_once_by_one_id(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "aphrodite"):
        with serving(folder) as server, connected(server) as sock:
            sock.sendall(POST.replace(b"completions", b"messages") + CHUNKED + b"\r\n")
            time.sleep(0.1)
            sock.sendall(b"no number\r\n")
            head, _, body = received(sock).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ") and json.loads(body)["type"] == "error"
        text = server.service.metrics.text().decode()
        answers = [line for line in text.splitlines() if line.startswith("aphrodite:http_answers_total{")]
        assert [line.split()[-1] for line in answers] == ["1.0"] and 'status="400"' in answers[0]
        (line,) = caplog.records
        assert line.request_id.encode() in head and "400" in line.getMessage()  # type: ignore[attr-defined]


@pytest.mark.parametrize("framing", [b"content-length: 100\r\n", CHUNKED])
def test_a_body_that_is_still_to_come_when_the_server_ends_comes_too_late(
    folder: Path, caplog: pytest.LogCaptureFixture, framing: bytes
) -> None:
    with serving(folder) as server:
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        sock.sendall(POST + framing + b"\r\n")
        time.sleep(0.1)
    with sock:
        head, _, body = received(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after: " in head and b"connection: close" in head
    assert json.loads(body)["error"]["code"] == "draining"
    assert not [one for one in caplog.records if one.levelname != "INFO"]


@pytest.mark.parametrize("more", ["", ', "stream": true'], ids=["whole", "stream"])
def test_an_answer_that_is_cut_when_the_server_ends_is_not_another(
    folder: Path, caplog: pytest.LogCaptureFixture, more: str
) -> None:
    with serving(folder, ScriptedEngine(slowly)) as server:
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        sock.sendall(POST + asked(300, more))
        time.sleep(0.2)
    with sock:
        found = received(sock)
    assert found.count(b"HTTP/1.1 ") == bool(more) and b"Internal" not in found and not found.endswith(b"0\r\n\r\n")
    assert not [one for one in caplog.records if one.levelname != "INFO"]


# ---- a client that shuts its side -----------------------------------------------------------------------------------


def waits(request: Any) -> Iterator[int | float | str]:
    yield 0.4
    for _ in range(request.sampling.max_tokens):
        yield request.prompt_token_ids[-1]
    yield "length"


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("count", [1, 3])
def test_who_sends_no_more_gets_what_is_answered_at_once(folder: Path, version: bytes, count: int) -> None:
    tokenize = b'{"prompt": "a b"}'
    post = POST.replace(b"/v1/completions", b"/tokenize") + b"content-length: %d\r\n\r\n%s" % (len(tokenize), tokenize)
    for rest in (b"", GET, post[:-3], b"no HTTP\r\n\r\n"):
        with serving(folder, ScriptedEngine(slowly)) as server, connected(server) as sock:
            sock.sendall(((GET + b"\r\n" + post) * count + rest).replace(b"1.1", version))
            sock.shutdown(socket.SHUT_WR)
            answers = [one[:3] for one in received(sock).split(b"HTTP/1.1 ")[1:]]
            if version == b"1.0":  # which ends with its first answer
                assert answers == [b"200"]
            else:
                assert answers == [b"200"] * 2 * count + [b"400"] * (rest[:2] == b"no")


@pytest.mark.parametrize("more", ["", ', "stream": true'], ids=["whole", "stream"])
@pytest.mark.parametrize("phase", ["before", "within", "behind"])
@pytest.mark.parametrize("how", ["closes", "shuts its side"])
def test_a_generation_ends_with_its_client(folder: Path, more: str, phase: str, how: str) -> None:
    """Whether it only sends no more is told by nothing."""
    engine = ScriptedEngine(slowly)
    with serving(folder, engine) as server, connected(server) as sock:
        sock.sendall((GET + b"\r\n" if phase == "behind" else b"") + POST + asked(300, more))
        if phase == "within" and more:
            received(sock, b"data: ")
        until(lambda: engine.live)
        sock.close() if how == "closes" else sock.shutdown(socket.SHUT_WR)
        until(lambda: not engine.live and not server.service.runs)
        assert len(engine.aborted) == 1


def test_who_shuts_its_side_with_nothing_to_wait_for_is_let_go_of(folder: Path) -> None:
    with serving(folder, ScriptedEngine(slowly)) as server:
        for sent in (b"", b"GET", POST + b"content-length: 50\r\n\r\nabc", GET + b"\r\n"):
            with connected(server) as sock:
                sock.sendall(sent)
                time.sleep(0.05)
                sock.shutdown(socket.SHUT_WR)
                began = time.monotonic()
                received(sock)
                assert time.monotonic() - began < 1
