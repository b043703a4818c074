"""What is refused, how, and that it costs nothing: bodies, parameters, sizes, slow senders."""

from __future__ import annotations

import asyncio
import json
import re
import select
import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pytest

from aphrodite.server.body import Limits
from tests.server.crowded import received
from tests.server.serving import Serving, serving
from tests.support.waiting import in_time, until

TYPES = {"invalid_request_error", "authentication_error", "permission_error", "not_found_error", "rate_limit_error"}
LIMITS = Limits(head_s=2.0, body_s=3.0, body_bytes=64 << 10, num_prompts=8)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    with serving(folder, limits=LIMITS, max_sequences=40) as found:
        yield found


def check_error(answer: httpx.Response, status: int, code: str | None = None, param: str | None = None) -> str:
    """An error as section 3 of the contract has it; its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] in TYPES
    assert code is None or error["code"] == code, error
    assert param is None or error["param"] == param, error
    assert answer.headers["x-request-id"]
    if status not in (408, 429, 503):
        assert answer.headers["x-should-retry"] == "false"
    assert not re.search(r"Traceback|0x[0-9a-f]{4}|/tmp/|site-packages", answer.text)
    message: str = error["message"]
    return message


def complete(server: Serving, **asked: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/completions", json={"prompt": "a b", "max_tokens": 2, **asked})


def send(server: Serving, body: bytes, path: str = "/v1/completions", **headers: str) -> httpx.Response:
    return httpx.post(server.url + path, content=body, headers={"content-type": "application/json", **headers})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"prompt": "a", "x": ' + b"[" * 20000 + b"]" * 20000 + b"}", "json_too_deep"),
        (b'{"prompt": "a", "x": ' + b'{"a":' * 9000 + b"1" + b"}" * 9000 + b"}", "json_too_deep"),
        (b'{"prompt": "a", "temperature": NaN, ]', "invalid_value"),
        (b'{"prompt": "a", "temperature": N', "invalid_json"),
        (b'{"prompt": "NaN", "temperature": "Infinity",}', "invalid_json"),
        (b"NaN", "invalid_value"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "invalid_value"),
        (b'{"prompt": "a",}', "invalid_json"),
        (b'\xef\xbb\xbf{"prompt": "a"}', "invalid_json"),
        (b"null", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"42", "invalid_json"),
        (b"", "invalid_json"),
        (b'{"prompt": "\xff"}', "invalid_unicode"),
        (b'{"prompt": "\\ud800"}', "invalid_unicode"),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else value,
)
def test_a_body_that_is_no_good_json_is_refused(server: Serving, body: bytes, code: str | None) -> None:
    began = time.process_time()
    check_error(send(server, body), 400, code)
    assert time.process_time() - began < 1
    assert not server.engine.live


@pytest.mark.parametrize("value", ["NaN", "-NaN", "nan", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 100_000])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"prompt": "a", "temperature": %s}', "temperature"),
        ('{"prompt": "a {\\"top_p\\": [", "x": [1, {"y": 2}], "top_p":%s,"z":1}', "top_p"),
        ('{"logit_bias": {"5": 1, "7": %s}, "prompt": "a"}', "logit_bias.7"),
        ('{"prompt": [[1, 2], [3, %s]]}', "prompt[1][1]"),
        ('{"messages": [{"role": "user", "content": "x"}, {"\\n\\u001b": %s}]}', "messages[1].'\\n\\x1b'"),
    ],
)
def test_what_is_no_number_is_refused_by_its_field(server: Serving, body: str, param: str, value: str) -> None:
    if len(body) + len(value) > LIMITS.body_bytes:
        value = value[:50_000]
    message = check_error(send(server, (body % value).encode()), 400, "invalid_value", param)
    assert "finite number" in message and value[:20] in message and len(message) < 200


def test_lists_and_objects_of_a_body_have_a_limit(folder: Path) -> None:
    with serving(folder, limits=Limits(json_containers=1000)) as server:
        for part, count in ((b"[]", 998), (b"{}", 998), (b'"[{"', 5000), (b"[[]]", 499)):
            body = b'{"prompt": "a", "max_tokens": 1, "x": [' + b",".join([part] * count) + b"%s]}"
            assert send(server, body % b"").status_code == 200, part
            more = b"" if part.startswith(b'"') else b",{},[]"
            if more:
                message = check_error(send(server, body % more), 413, "payload_too_large")
                assert "1000 lists and objects, got 100" in message


def test_a_field_is_looked_for_in_no_time(folder: Path) -> None:
    with serving(folder, limits=Limits(body_bytes=8 << 20)) as server:
        for filler in (b"1,", b'"a",', b'"\\\\",', b"[],", b"   ", b"9"):
            for count in (9_000 // len(filler), 256 << 10 if filler == b"[]," else 2 << 20):  # lists are slow to make
                body = b'{"x": [' + filler * (count // len(filler)) + b'1], "temperature": NaN}'
                began = time.monotonic()
                answer = send(server, body)
                took = time.monotonic() - began
                is_near = count < 10_000 or filler == b"   "
                param = "x[0]" if filler == b"9" else "temperature" if is_near else None
                check_error(answer, 400, "invalid_value" if param else "invalid_json", param)
                assert took < 30, (filler, count)  # a search that is quadratic would take hours


def test_of_a_key_that_is_there_twice_the_last_counts(server: Serving) -> None:
    answer = send(server, b'{"prompt": "a", "max_tokens": 9, "max_tokens": 2}')
    assert answer.json()["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"temperature": "0.7"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"seed": 2**64}, "seed"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": "1"}}, "logit_bias"),
        ({"n": 10**9}, "n"),
        ({"n": 65}, "n"),
        ({"n": 0}, "n"),
        ({"n": -1}, "n"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": None}, "max_completion_tokens"),
        ({"min_tokens": 5, "max_tokens": 2}, "min_tokens"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * (1 << 15)}, "stop"),
        ({"stop": ""}, "stop"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -5}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logprobs": 10**6}, "logprobs"),
        ({"prompt_logprobs": 320}, "prompt_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": "yes"}, "stream"),
        ({"suffix": "end"}, "suffix"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"a": 1}}, "response_format"),
        ({"response_format": {"type": None}}, "response_format"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, None),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": [1, 99999]}, None),
        ({"model": "another"}, "model"),
        ({"model": 7}, "model"),
        ({"priority": 1.5}, "priority"),
        ({"cache_salt": 5}, "cache_salt"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": 10**12}, "timeout"),
    ],
    ids=repr,
)
def test_a_parameter_that_cannot_be_used_is_named(server: Serving, asked: dict[str, Any], param: str | None) -> None:
    answer = complete(server, **asked)
    check_error(answer, 404 if asked.get("model") == "another" else 400, None, param)
    assert not server.engine.live


def test_a_whole_number_may_be_written_with_a_point(server: Serving) -> None:
    assert complete(server, max_tokens=3.0).json()["usage"]["completion_tokens"] == 3


def test_a_prompt_may_be_one_token_shorter_than_the_context_and_no_longer(server: Serving) -> None:
    ids = [5] * 511
    assert complete(server, prompt=ids).json()["usage"]["completion_tokens"] == 1
    for count in (512, 513):
        message = check_error(complete(server, prompt=[5] * count), 400, "context_length_exceeded")
        assert str(count) in message and "512" in message
    check_error(complete(server, prompt="x" * 60000), 400, "context_length_exceeded")


def test_headers_bodies_and_targets_have_limits(server: Serving) -> None:
    check_error(send(server, b"x" * (65 << 10)), 413, "payload_too_large")
    raw = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    chunked = raw + b"transfer-encoding: chunked\r\n\r\n" + b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    found = server.raw(chunked + b"8000\r\n" + b"x" * 0x8000 + b"\r\n" + b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
    assert found.startswith(b"HTTP/1.1 413") and b"connection: close" in found
    assert server.raw(raw + b"a: " + b"x" * (17 << 10) + b"\r\n\r\n").startswith(b"HTTP/1.1 431")
    assert server.raw(raw + b"".join(b"h%d: 1\r\n" % i for i in range(101)) + b"\r\n").startswith(b"HTTP/1.1 431")
    assert server.raw(b"GET /" + b"x" * (9 << 10) + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 414")
    assert server.raw(b"GET /" + b"x" * (64 << 10)).startswith((b"HTTP/1.1 414", b"HTTP/1.1 431"))
    assert server.raw(b"\x16\x03\x01 hello\r\n\r\n").startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
def test_compressed_bodies_are_not_inflated(server: Serving, coding: str) -> None:
    check_error(send(server, b"\x1f\x8b" + b"0" * 100, **{"content-encoding": coding}), 415)


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
def test_a_body_must_say_that_it_is_json(server: Serving, kind: str) -> None:
    check_error(send(server, b'{"prompt": "a"}', **{"content-type": kind}), 415, "unsupported_media_type")


def test_who_sends_too_slowly_is_cut_off(server: Serving) -> None:
    socks = []
    for sent in (b"", b"GET /v1/models HTTP/1.1\r\nhos"):
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        sock.sendall(sent)
        socks.append(sock)
    body = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    sock.sendall(body)
    socks.append(sock)
    dripping = socks[1]
    for _ in range(60):  # three bytes a second hold nobody up
        if select.select([dripping], [], [], 0.3)[0]:
            break
        dripping.sendall(b"x")
    silent, half, bodiless = map(received, socks)
    assert silent == b"" and half.startswith(b"HTTP/1.1 408") and bodiless.startswith(b"HTTP/1.1 408")
    for sock in socks:
        sock.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "//v1/models", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/%2e%2e/metrics", 404),
        ("GET", "/v1/completions", 405),
        ("HEAD", "/v1/models", 405),
        ("OPTIONS", "/v1/completions", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/docs", 404),
    ],
)
def test_paths_are_taken_as_they_are(server: Serving, method: str, path: str, status: int) -> None:
    request = f"{method} {path} HTTP/1.1\r\nhost: a/health?x=\r\nconnection: close\r\n\r\n".encode()
    assert server.raw(request).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1/nothing", "error.code"),
        ("/v1/responses/a/nothing", "error.code"),
        ("/nothing", "error.code"),
        ("/", "error"),
        ("/v1/messages/batches", "request_id"),
        ("/api/pull", "error"),
        ("/api/blobs/sha256:0", "error"),
        ("/api/extra/websearch", "detail.msg"),
        ("/api/v1/nothing/there", "detail.msg"),
    ],
)
def test_what_is_not_there_is_told_in_the_words_of_its_neighbours(server: Serving, path: str, key: str) -> None:
    answer = httpx.post(server.url + path, json={})
    found = answer.json()
    for part in key.split("."):
        found = found[part]
    assert answer.status_code == (405 if path == "/" else 404) and isinstance(found, str)


def test_a_full_queue_is_told_before_any_work(folder: Path) -> None:
    from tests.server.engine import ScriptedEngine

    engine = ScriptedEngine(lambda request: [*request.prompt_token_ids[-1:] * 2, 60.0, "stop"])
    with serving(folder, engine, max_sequences=4) as server, httpx.Client() as client:
        with client.stream("POST", f"{server.url}/v1/completions", json={"prompt": ["a"] * 3, "stream": True}) as held:
            parts = held.iter_bytes()  # to be kept: the stream is closed with it
            next(parts)
            answer = in_time(lambda: complete(server, n=2, temperature=1.0), 0.5)
            message = check_error(answer, 429, "queue_full")
            assert "3" in message and 1 <= int(answer.headers["retry-after"]) <= 60
            assert len(engine.added) == 3
            check_error(complete(server, n=5), 400, None, "n")
        until(lambda: not engine.live)  # the client has left: its sequences are aborted
        until(lambda: not server.service.admission.num_taken)


def test_who_finds_no_room_is_refused_before_the_body_is_here(folder: Path) -> None:
    from tests.server.engine import ScriptedEngine

    engine = ScriptedEngine(lambda request: [*request.prompt_token_ids[-1:], 60.0, "stop"])
    asked = {"prompt": "a", "stream": True}
    with (
        serving(folder, engine, max_sequences=1) as server,
        httpx.stream("POST", f"{server.url}/v1/completions", json=asked) as held,
    ):
        parts = held.iter_bytes()  # to be kept: the stream is closed with it
        next(parts)
        routes = [route for route, _ in server.site.routes if route.generates]
        assert len(routes) >= 8
        for route in routes:
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
                head = f"POST {route.path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                sock.sendall(f"{head}content-length: 1000\r\n\r\n".encode())
                answer = answered(sock)
                assert answer.status in (429, 529) and answer.headers["retry-after"]
                sock.sendall(b"x" * 1000)  # it is read and forgotten: the connection lives on
                sock.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
                assert answered(sock).status == 200
        refused = f'aphrodite:requests_refused_total{{model_name="tiny"}} {len(routes)}.0'
        assert refused.encode() in server.service.metrics.text()
        assert httpx.post(f"{server.url}/tokenize", json={"prompt": "a"}).status_code == 200, "takes no sequence"


def test_a_refusal_keeps_its_place_on_the_connection_and_goes_to_who_has_a_key(folder: Path) -> None:
    from tests.server.engine import ScriptedEngine

    engine = ScriptedEngine(lambda request: [*request.prompt_token_ids[-1:], 60.0, "stop"])
    key = {"authorization": "Bearer k"}
    asked = {"prompt": "a", "stream": True}
    with (
        serving(folder, engine, max_sequences=1, keys=("k",)) as server,
        httpx.stream("POST", f"{server.url}/v1/completions", json=asked, headers=key) as held,
    ):
        parts = held.iter_bytes()
        next(parts)
        body = b'{"prompt": "a"}'
        post = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nx-request-id: mine\r\ncontent-type: application/json\r\n"
        post += b"content-length: %d\r\n" % len(body)
        shown = b"authorization: Bearer k\r\n"
        models = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n" + shown + b"\r\n"
        with_key, without, last = (
            post + more + b"\r\n" + body for more in (shown, b"", shown + b"connection: close\r\n")
        )
        found = server.raw(models + with_key * 300 + without + models + with_key + last + models)
        statuses = [int(line[9:12]) for line in re.findall(rb"HTTP/1\.1 \d\d\d ", found)]
        assert statuses == [200, *[429] * 300, 401, 200, 429, 429], "and nothing after the one that closes"
        assert found.count(b"\r\nx-request-id: mine\r\n") == 303
        assert b"\r\nconnection: close\r\n" in found.rpartition(b"HTTP/1.1 429")[2]


def answered(sock: socket.socket) -> HTTPResponse:
    """An answer, all of it."""
    found = HTTPResponse(sock)
    found.begin()
    found.read()
    return found


def test_of_many_at_once_those_over_the_cap_cost_nothing_and_the_others_end(folder: Path) -> None:
    from tests.server.engine import ScriptedEngine

    prepared: list[object] = []
    body = json.dumps({"prompt": "a b", "max_tokens": 20}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n"
    request = head + b"content-length: %d\r\n\r\n%s" % (len(body), body)

    def script(request: Any) -> Iterator[int | float | str]:
        for _ in range(20):
            yield request.prompt_token_ids[-1]
            yield 0.01
        yield "length"

    async def one(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        found = await reader.read()
        writer.close()
        return found

    async def crowd(port: int) -> list[bytes]:
        return list(await asyncio.gather(*(one(port) for _ in range(300))))

    with serving(folder, ScriptedEngine(script), max_sequences=8) as server:
        prepare = server.service.prepare
        server.service.prepare = lambda *given: prepared.append(given) or prepare(*given)  # type: ignore[method-assign]
        answers = asyncio.run(crowd(server.port))
        refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 429 ")]
        ended = [answer for answer in answers if answer.startswith(b"HTTP/1.1 200 ")]
        assert len(refused) + len(ended) == 300 and len(ended) >= 8
        assert all(b"\r\nretry-after: " in answer for answer in refused)
        assert all(b'"finish_reason":"length"' in answer for answer in ended)
        assert len(prepared) == len(server.engine.added) == len(ended), "who is refused is never tokenised"
        text = server.service.metrics.text().decode()
        assert f'aphrodite:requests_refused_total{{model_name="tiny"}} {len(refused)}.0' in text
        assert server.service.admission.num_taken == 0


CHATS: list[tuple[Any, str]] = [
    ([], "messages"),
    ("hi", "messages"),
    ([{"role": "nobody", "content": "x"}], "messages[0].role"),
    ([{"role": "", "content": "x"}], "messages[0].role"),
    ([{"role": "user"}], "messages[0].content"),
    ([{"role": "user", "content": None}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages[0].content"),
    ([{"role": "tool", "tool_call_id": "x", "content": "1"}], "messages[0]"),
    (["hi"], "messages[0]"),
    ([{"role": "user", "content": "x"}] * 5000, "messages"),
]


@pytest.mark.parametrize(("messages", "param"), CHATS, ids=lambda value: repr(value)[:40])
def test_a_message_that_cannot_be_used_is_named(server: Serving, messages: Any, param: str) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": messages})
    if answer.status_code != 413:
        check_error(answer, 400, None, param)


def tool(name: Any = "f", **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters or {"type": "object"}}}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tools": [tool(f"f{i}") for i in range(129)]}, "tools[128]"),
        ({"tools": [tool(), tool("x" * 4096)]}, "tools[1].function.name"),
        ({"tools": [tool(), tool()]}, "tools[1].function.name"),
        ({"tools": [tool(type="number string")]}, "tools[0].function.parameters.type"),
        (
            {"tools": [tool(type="object", properties={"a": {"type": "string", "pattern": "["}})]},
            "tools[0].function.parameters.properties.a.pattern",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        (
            {"tools": [tool()], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
            "tool_choice",
        ),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
        ({"add_generation_prompt": "x"}, "add_generation_prompt"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_a_chat_brings_that_cannot_be_used_is_named(server: Serving, asked: dict[str, Any], param: str) -> None:
    asked = {"messages": [{"role": "user", "content": "x"}], **asked}
    check_error(httpx.post(f"{server.url}/v1/chat/completions", json=asked), 400, None, param)
    assert not server.engine.live


@pytest.mark.parametrize("text", ["a", " ", "\n", "7", "\u200d\U0001f468", "e\u0301"], ids=repr)
def test_long_texts_of_one_character_do_not_hold_up_others(folder: Path, text: str) -> None:
    with serving(folder, limits=Limits(body_bytes=8 << 20)) as server, httpx.Client(timeout=60) as client:
        body = json.dumps(
            {"prompt": text * (4_000_000 // len(text.encode())), "max_tokens": 1}, ensure_ascii=False
        ).encode()
        slowest = 0.0
        import threading

        done: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: done.append(send(server, body)))
        thread.start()
        while not done and thread.is_alive():
            began = time.process_time()  # who holds others up here computes
            assert client.get(f"{server.url}/health").status_code == 200
            slowest = max(slowest, time.process_time() - began)
            time.sleep(0.005)
        thread.join()
        check_error(done[0], 400, "context_length_exceeded")
        assert slowest < 0.5, slowest


def test_a_settings_object_of_a_front_end_is_taken_and_told_of(server: Serving) -> None:
    asked = {f"unknown_{place}": place for place in range(500)}
    answer = complete(server, **asked, truncation_length=2048, api_type="aphrodite", dry_sequence_breakers="[]")
    assert answer.status_code == 200
    assert len(answer.json()["ignored_params"]) == 502
    assert len(answer.headers["x-aphrodite-ignored"]) <= 2100


def test_strict_parameters_refuse_what_would_be_ignored(folder: Path) -> None:
    with serving(folder, strict_params=True) as server:
        check_error(complete(server, top_a=0.5), 400, "unsupported_parameter", "top_a")
        assert complete(server, top_a=0, tfs=1, top_k=-1, seed=-1).status_code == 200


def test_prompts_that_wait_have_a_limit_together(folder: Path) -> None:
    import threading

    from tests.server.engine import ScriptedEngine

    ends = threading.Event()

    def script(request: Any) -> Iterator[float | str]:
        while not ends.is_set():
            yield 0.01
        yield "stop"

    with serving(folder, ScriptedEngine(script), max_queued_tokens=100) as server:
        first = threading.Thread(target=complete, args=(server,), kwargs={"prompt": [5] * 200})  # alone it may be more
        first.start()
        until(lambda: server.engine.live)
        message = check_error(complete(server, prompt=[5] * 3), 429, "queue_full")
        assert "200" in message and "100" in message
        ends.set()
        first.join()
        assert complete(server, prompt=[5] * 3).status_code == 200
        assert server.service.admission.num_taken == 0
