"""Clients that leave, that do not read, that have a deadline; requests that fail; many of them at once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aphrodite.text.tokenizer import Tokenizer
from aphrodite.types.request import Request
from tests.server.engine import ScriptedEngine
from tests.server.serving import Serving, serving
from tests.support.waiting import in_time, until

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"


def slowly(request: Request) -> Iterator[int | float | str]:
    """A token every 5 ms, for ever."""
    while True:
        yield request.prompt_token_ids[-1]
        yield 0.005


def check_idle(server: Serving) -> None:
    """Nothing is left of any request: in the engine, in the queue, in the server."""
    until(lambda: not (server.engine.live or server.service.runs or server.service.admission.num_taken))


def open_stream(server: Serving, **asked: Any) -> socket.socket:
    body = json.dumps({"prompt": "a", "max_tokens": 400, "stream": True, **asked}).encode()
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    sock.sendall(HEAD % (len(body), body))
    return sock


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_all_of_its_sequences(folder: Path, stream: bool) -> None:
    with serving(folder, ScriptedEngine(slowly), max_sequences=600) as server:
        sock = open_stream(server, prompt=["a"] * 32, n=4, temperature=1.0, stream=stream)
        until(lambda: len(server.engine.live) == 128)
        if stream:
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
        sock.close()
        check_idle(server)
        assert len(server.engine.aborted) == 128


def test_a_reader_that_stops_holds_up_nobody_and_is_cut_off(folder: Path) -> None:
    def flood(request: Request) -> Iterator[int | float | str]:
        for _ in range(request.max_total_tokens - len(request.prompt_token_ids)):
            yield request.prompt_token_ids[-1]
        yield "length"

    with serving(folder, ScriptedEngine(flood), app={"stall_s": 2.0}, max_sequences=1000) as server:
        began = time.monotonic()
        deaf = []
        for _ in range(5):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            body = json.dumps({"prompt": ["a"] * 64, "max_tokens": 500, "stream": True, "logprobs": 1}).encode()
            sock.sendall(HEAD % (len(body), body))
            deaf.append(sock)
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a b", "max_tokens": 4}, timeout=20)
        assert answer.status_code == 200
        check_idle(server)
        assert time.monotonic() - began > 1.5, "they were given their time"
        assert b"aphrodite:clients_too_slow_total" in server.service.metrics.text()
        for sock in deaf:
            sock.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("by", ["header", "body", "server"])
def test_a_deadline_is_kept(folder: Path, stream: bool, by: str) -> None:
    settings = {"request_timeout_s": 0.3} if by == "server" else {}

    def silent(request: Request) -> Iterator[int | float | str]:
        yield 30.0

    with serving(folder, ScriptedEngine(silent), **settings) as server:
        asked: dict[str, Any] = {"prompt": "a", "stream": stream}
        headers = {"x-request-timeout": "0.3"} if by == "header" else {}
        if by == "body":
            asked["timeout"] = 0.3

        def ask() -> httpx.Response:
            began = time.monotonic()
            found = httpx.post(f"{server.url}/v1/completions", json=asked, headers=headers)
            assert time.monotonic() - began > 0.25
            return found

        answer = in_time(ask, 1)
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline_exceeded"
        assert answer.headers["x-should-retry"] == "false"
        check_idle(server)
        for nonsense in ("0", "-1", "1000000000000", "soon", "nan", "inf", "1_0", "1e400", ""):
            refused = httpx.post(
                f"{server.url}/v1/completions", json={"prompt": "a"}, headers={"x-request-timeout": nonsense}
            )
            assert refused.status_code == 400, nonsense
            assert refused.json()["error"]["param"] == "x-request-timeout"


def test_a_deadline_in_the_middle_of_a_stream_is_its_last_frame(folder: Path) -> None:
    asked = {"prompt": "a", "stream": True, "max_tokens": 500}
    with (
        serving(folder, ScriptedEngine(slowly)) as server,
        httpx.stream("POST", f"{server.url}/v1/completions", json=asked) as answer,
    ):
        found = answer.iter_text()
        text = next(found)
        (run,) = server.service.runs
        server.loop.call_soon_threadsafe(lambda: run.expire_at(run.now_s(), 0.4))  # not before there is something
        text += "".join(found)
        *parts, error, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert done == "[DONE]" and json.loads(error)["error"]["code"] == "deadline_exceeded"
        assert parts and all(
            choice["finish_reason"] is None for part in parts for choice in json.loads(part)["choices"]
        )
        check_idle(server)


def test_logits_that_are_no_numbers_fail_their_request_alone(folder: Path) -> None:
    def script(request: Request) -> Iterator[int | float | str]:
        yield request.prompt_token_ids[-1]
        yield 0.05
        yield "error" if request.sampling.seed == 7 else "stop"

    with serving(folder, ScriptedEngine(script)) as server:
        for stream in (True, False):
            bad = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "seed": 7, "stream": stream})
            good = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "seed": 8})
            assert "numerical_error" in bad.text and (stream or bad.status_code == 500)
            assert good.json()["choices"][0]["finish_reason"] == "stop"
        assert b'aphrodite:numerical_errors_total{model_name="tiny"} 2.0' in server.service.metrics.text()
        check_idle(server)


def test_two_requests_with_one_id_both_end(folder: Path) -> None:
    with serving(folder) as server:
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(
                httpx.post(f"{server.url}/v1/completions", json={"prompt": "a b"}, headers={"x-request-id": "same"})
            )

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert len({answer.json()["id"] for answer in answers}) == 2


def test_a_storm_leaves_nothing_behind_and_spoils_no_answer(folder: Path) -> None:
    """Clients that leave, send nonsense, read slowly or ask properly, 64 at a time."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    tokenizer = Tokenizer.find(folder)
    assert tokenizer is not None

    def script(request: Request) -> Iterator[int | float | str]:
        for place in range(request.max_total_tokens - len(request.prompt_token_ids)):
            yield request.prompt_token_ids[place % len(request.prompt_token_ids)]
            if place % 4 == 3:
                yield 0.002
        yield "length"

    async def one(server: Serving, kind: str, prompt: str, count: int) -> None:
        body = json.dumps({"prompt": prompt, "max_tokens": count, "stream": kind != "whole"}).encode()
        if kind == "nonsense":
            body = bytes(rng.randrange(256) for _ in range(80))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write((HEAD % (len(body), body)).replace(b"host: a\r\n", b"host: a\r\nconnection: close\r\n"))
        if kind == "leaves":
            await asyncio.sleep(rng.random() * 0.05)
            writer.close()
            return
        data = b""
        while part := await reader.read(512 if kind == "slow" else 65536):
            data += part
            if kind == "slow":
                await asyncio.sleep(0.001)
        writer.close()
        head, _, rest = data.partition(b"\r\n\r\n")
        if kind == "nonsense":
            assert head.startswith(b"HTTP/1.1 400"), head
            return
        assert head.startswith(b"HTTP/1.1 200"), data
        ids = tokenizer.encode(prompt)
        expected = tokenizer.decode([ids[place % len(ids)] for place in range(count)])
        assert _text(rest, kind) == expected

    async def storm(server: Serving) -> None:
        gate = asyncio.Semaphore(64)

        async def gated(*arguments: Any) -> None:
            async with gate:
                await one(server, *arguments)

        kinds = ["stream", "whole", "slow", "leaves", "nonsense"]
        words = ["the engine", "a step", "blocks", "Grüße", "another one"]
        await asyncio.gather(*(gated(rng.choice(kinds), rng.choice(words), rng.randrange(1, 40)) for _ in range(400)))

    with serving(folder, ScriptedEngine(script), max_sequences=1000) as server:
        files = len(os.listdir("/proc/self/fd"))
        asyncio.run(storm(server))
        check_idle(server)
        until(lambda: len(os.listdir("/proc/self/fd")) <= files + 4)


def _text(rest: bytes, kind: str) -> str:
    """The text of an answer, whole or in chunks."""
    if kind == "whole":
        found: str = json.loads(rest)["choices"][0]["text"]
        return found
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size, 16)
        body, rest = body + rest[:count], rest[count + 2 :]
    frames = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    assert frames[-1] == b"[DONE]"
    return "".join(json.loads(frame)["choices"][0]["text"] for frame in frames[:-1])
