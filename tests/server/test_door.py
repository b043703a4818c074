"""Who is refused at the door is told what the application would say; whatever is not plain gets there."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import socket
import time
from pathlib import Path

import httptools
import pytest

from aphrodite.server import door
from aphrodite.server.body import Limits
from aphrodite.server.door import Door
from tests.server.crowded import POST, full, received
from tests.server.serving import Serving, serving
from tests.support.waiting import until

ID = b"0123456789abcdef0123456789abcdef"
BODY = b'{"prompt": "a b c"}'
PLAIN = POST + b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY)
LONG = b'{"prompt": "%s"}' % (b"a b c" * 120)  # more than who asks for nothing has to say
MODELS = b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
_AN_ID = re.compile(rb"[0-9a-f]{32}")


def asked(server: Serving, *parts: bytes) -> bytes:
    """What comes back on one connection until it ends; the last part asks for that."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            sock.sendall(part)
            time.sleep(0.02)
        return received(sock)


def refused_at_door(server: Serving, request: bytes) -> bool:
    """Whether a request gets no further."""

    async def refused() -> bool:
        found = Door(server.site)
        assert found.is_shut
        return found.refuse(request) is not None

    return asyncio.run(refused())


def test_the_answer_is_the_applications_on_every_route(folder: Path) -> None:
    """`x-request-id` is not plain: the application answers, and all but that must be the same."""
    with full(folder) as server:
        paths = [route.path for route, _ in server.site.routes if route.generates]
        assert len(paths) >= 8
        for path in paths:
            plain = POST.replace(b"/v1/completions", path.encode()) + b"content-length: %d\r\n\r\n%s" % (
                len(LONG),
                LONG,
            )
            odd = plain.replace(b"host: a\r\n", b"host: a\r\nx-request-id: %s\r\n" % ID)
            assert refused_at_door(server, plain) and not refused_at_door(server, odd), path
            by_door, by_app = (
                asked(server, one.replace(b"host: a\r\n", b"host: a\r\nconnection: close\r\n")) for one in (plain, odd)
            )
            assert by_door.startswith(b"HTTP/1.1 ") and by_door.count(b"HTTP/1.1 ") == 1
            assert ID in by_app and ID not in by_door
            head, _, body = _AN_ID.sub(b"ID", by_door).partition(b"\r\n\r\n")
            wanted_head, _, wanted_body = _AN_ID.sub(b"ID", by_app).partition(b"\r\n\r\n")
            assert body == wanted_body and set(head.split(b"\r\n")) == set(wanted_head.split(b"\r\n"))


def test_each_refusal_has_an_id_of_its_own_and_is_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with full(folder) as server, caplog.at_level(logging.INFO, "aphrodite"):
        found = asked(server, PLAIN * 50 + MODELS)
        assert found.count(b"HTTP/1.1 429 ") == 50 and found.count(b"HTTP/1.1 200 ") == 1
        assert len(set(re.findall(rb"x-request-id: ([0-9a-f]{32})\r\n", found))) == 51
        until(lambda: 'aphrodite:http_answers_total{status="429"} 50.0' in server.service.metrics.text().decode())
        assert 'aphrodite:requests_refused_total{model_name="tiny"} 50.0' in server.service.metrics.text().decode()
        until(lambda: "50 requests refused" in caplog.text)
        assert "50 requests refused within 1 s: the queue is full" in caplog.text and "429" not in caplog.text


@pytest.mark.parametrize("size", [0, 19, 100_000])
def test_a_body_may_come_later_and_in_parts_and_the_next_request_is_found_after_it(folder: Path, size: int) -> None:
    body = b"x" * size
    head = POST + b"content-length: %d\r\n\r\n" % size
    with full(folder) as server:
        for parts in ((head, body + MODELS), (head + body[:7], body[7:], MODELS), (head + body + MODELS,)):
            found = asked(server, *parts)
            assert re.findall(rb"HTTP/1.1 (\d+) ", found) == [b"429", b"200"]


def test_a_body_that_does_not_come_is_not_waited_for(folder: Path) -> None:
    with full(folder, limits=Limits(body_s=0.5)) as server:
        found = asked(server, POST + b"content-length: 100\r\n\r\nx")
        assert found.count(b"HTTP/1.1 ") == 1 and found.startswith(b"HTTP/1.1 429 ")


ODD = [
    POST + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"content-length: 2\r\ncontent-length: 2\r\n\r\n{}",
    POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
    POST + b"content-length: +2\r\n\r\n{}",
    POST + b"content-length: 2\r\nexpect: 100-continue\r\n\r\n{}",
    POST + b"content-length: 2\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n{}",
    POST + b"content-length: 2\r\norigin: http://x\r\n\r\n{}",
    POST + b"content-length: 2\r\nx-a: \xff\r\n\r\n{}",
    POST + b"content-length: 2\r\nx-a: b\r\n folded\r\n\r\n{}",
    POST + b"content-length : 2\r\n\r\n{}",
    POST + b"content-length: 2\n\n{}",
    POST + b"content-length: 99999999999\r\n\r\n{}",
    POST + b"\r\n",
    POST.replace(b"1.1", b"1.0") + b"content-length: 2\r\n\r\n{}",
    POST.replace(b"POST", b"PUT") + b"content-length: 2\r\n\r\n{}",
    POST.replace(b"/v1/completions", b"/v1/completions?a=b") + b"content-length: 2\r\n\r\n{}",
    POST.replace(b"/v1/completions", b"/v1/%63ompletions") + b"content-length: 2\r\n\r\n{}",
    POST.replace(b"/v1/completions", b"http://a/v1/completions") + b"content-length: 2\r\n\r\n{}",
    POST.replace(b"/v1/completions", b"/tokenize") + b"content-length: 2\r\n\r\n{}",
    POST + b"x-filler: %s\r\ncontent-length: 2\r\n\r\n{}" % (b"x" * (8 << 10)),
    POST + b"content-length: 2\r\n" + b"x-%d: b\r\n" * 0 + b"".join(b"x-%d: b\r\n" % i for i in range(99)) + b"\r\n{}",
]


@pytest.mark.parametrize("request_", ODD, ids=range(len(ODD)))
def test_what_is_not_plain_is_the_applications(folder: Path, request_: bytes) -> None:
    with full(folder) as server:
        assert refused_at_door(server, PLAIN) and not refused_at_door(server, request_)


def test_the_door_asks_for_a_key_where_the_application_does(folder: Path) -> None:
    with serving(folder, keys=("right",), max_sequences=1) as server:
        server.service.admission.take(1)
        for line in (b"", b"authorization: Bearer wrong\r\n", b"authorization: Bearer right\r\nx-api-key: wrong\r\n"):
            request = PLAIN.replace(b"host: a\r\n", b"host: a\r\n" + line)
            assert not refused_at_door(server, request)
            assert asked(server, request + MODELS).startswith(b"HTTP/1.1 401 ")
        for line in (b"Authorization: bearer right\r\n", b"X-API-Key: right\r\n"):
            assert refused_at_door(server, PLAIN.replace(b"host: a\r\n", b"host: a\r\n" + line))


class Parsed:
    """What a parser of its own makes of a request."""

    def __init__(self, data: bytes) -> None:
        self.url = self.body = b""
        self.names: list[bytes] = []
        self.is_complete = self.keeps = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.names.append(name.lower())

    def on_headers_complete(self) -> None:
        self.keeps = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        assert not self.is_complete, "there are two"
        self.is_complete = True


def test_the_parser_would_find_the_same_end_of_whatever_is_refused(folder: Path) -> None:
    """Or one request's body could be the next request."""
    rng = random.Random(7)
    lines = (
        b"content-length: 3\r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: close\r\n",
        b"a: b\r\n",
        b"\r\n",
        b" x\r\n",
    )
    pieces = (
        *lines,
        b"\r",
        b"\n",
        b"\t",
        b" ",
        b":",
        b"\0",
        b"\x80",
        b"0",
        b"POST / HTTP/1.1\r\n",
        b"Content-Length",
        b",",
    )
    begins = [PLAIN, PLAIN.replace(b"host: a\r\n", b"Host: a\r\nConnection: close\r\nX-B:\tc\r\n")]

    async def refused() -> list[bytes]:
        found = Door(server.site)
        requests = []
        for _ in range(20_000):
            request = bytearray(rng.choice(begins))
            for _ in range(rng.choice((1, 1, 2, 3))):
                at = rng.randrange(len(request))
                request[at : at + rng.choice((0, 0, 1, 4))] = rng.choice(pieces)
            answer = found.refuse(bytes(request))
            if answer is None:
                continue
            data = bytes(request[: answer.num_bytes])
            data += b"x" * (answer.num_bytes - len(data))
            parsed = Parsed(data)
            assert parsed.is_complete and parsed.keeps == (not answer.closes) and parsed.url == b"/v1/completions"
            assert data.endswith(b"\r\n\r\n" + parsed.body) and not {b"transfer-encoding", b"origin"} & {*parsed.names}
            requests.append(data)
        return requests

    with full(folder) as server:
        assert len(set(asyncio.run(refused()))) > 1000


def test_no_head_takes_longer_than_its_length(folder: Path) -> None:
    with full(folder) as server:
        found = Door(server.site)
        for filler in (b": ", b"a:", b"a: \r", b"a:\r\n", b"a: a: ", b"-"):
            request = POST + filler * ((8 << 10) // len(filler))
            began = time.process_time()
            for _ in range(20):
                assert found.refuse(request) is None
            assert time.process_time() - began < 2.0, "it grows with more than the length"


def test_a_door_that_opens_lets_the_next_in(folder: Path) -> None:
    with full(folder) as server, socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(PLAIN)
        assert received(sock, b'"}}').startswith(b"HTTP/1.1 429 ")
        server.service.admission.limit = 2
        sock.sendall(POST + b'content-length: 31\r\n\r\n{"prompt": "a", "stream": true}')
        assert received(sock, b"data: ").startswith(b"HTTP/1.1 200 ")


def test_what_is_said_changes_with_the_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_SAME_S", 60.0)
    with full(folder) as server:
        assert b'"queue_full"' in asked(server, PLAIN + MODELS)
        server.service.is_paused = True
        assert b'"paused"' in asked(server, PLAIN + MODELS)
        server.service.is_paused = False
        server.service.admission.num_taken += 1
        assert b"2 sequences are on their way" in asked(server, PLAIN + MODELS)
        server.service.admission.num_taken -= 1
