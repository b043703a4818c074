"""OpenAI's dialect over a scripted engine: what is sent back, whole and in parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from aphrodite.text.tokenizer import Tokenizer
from tests.server.engine import ScriptedEngine
from tests.server.serving import NAME, serving


def frames(text: str) -> list[Any]:
    """The data of server-sent events."""
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in found]


def test_a_completion_is_the_decoding_of_its_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.find(folder)
    assert tokenizer is not None
    with serving(folder) as server:
        answer = httpx.post(
            f"{server.url}/v1/completions", json={"prompt": "the engine", "max_tokens": 5, "model": NAME}
        )
    assert answer.status_code == 200
    found = answer.json()
    ids = tokenizer.encode("the engine")
    expected = [ids[place % len(ids)] for place in range(5)]
    assert found["choices"][0]["text"] == tokenizer.decode(expected)
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["prompt_tokens"] == len(ids) and found["usage"]["completion_tokens"] == 5
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_the_parts_of_a_stream_are_the_whole(folder: Path, path: str) -> None:
    asked: dict[str, Any] = {"max_tokens": 9, "n": 2, "temperature": 1.0, "seed": 1}
    asked |= (
        {"prompt": "the engine"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "hi"}]}
    )
    with serving(folder) as server:
        whole = httpx.post(server.url + path, json=asked).json()
        parts = frames(
            httpx.post(
                server.url + path, json={**asked, "stream": True, "stream_options": {"include_usage": True}}
            ).text
        )
    assert parts[-1] == "[DONE]" and parts[-2]["usage"] == whole["usage"] and parts[-2]["choices"] == []
    for index in (0, 1):
        mine = [part["choices"][0] for part in parts[:-2] if part["choices"][0]["index"] == index]
        if path == "/v1/completions":
            assert "".join(one["text"] for one in mine) == whole["choices"][index]["text"]
        else:
            assert mine[0]["delta"]["role"] == "assistant"
            said = "".join(one["delta"].get("content", "") for one in mine)
            assert said == whole["choices"][index]["message"]["content"]
        assert [one["finish_reason"] for one in mine if one["finish_reason"]] == ["length"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["text", "ids"])
def test_offsets_are_places_in_the_text_with_a_begin_token_and_without(folder: Path, prompt: str, stream: bool) -> None:
    tokenizer = Tokenizer.find(folder)
    assert tokenizer is not None
    ids = tokenizer.encode("the engine")
    assert tokenizer.token(ids[0]) == "<s>"  # which an echoed text does not show, and echoed ids do
    asked = {"prompt": "the engine" if prompt == "text" else ids, "max_tokens": 3, "logprobs": 1, "echo": True}
    with serving(folder, ScriptedEngine(lambda request: [*request.prompt_token_ids[1:4], "length"])) as server:
        answer = httpx.post(f"{server.url}/v1/completions", json={**asked, "stream": stream})
    parts = [part["choices"][0] for part in frames(answer.text)[:-1]] if stream else answer.json()["choices"]
    text = "".join(part["text"] for part in parts)
    tokens, offsets = ([one for part in parts for one in part["logprobs"][name]] for name in ("tokens", "text_offset"))
    assert len(offsets) == len(ids) + 3
    shown = tokens if prompt == "ids" else tokens[1:]
    assert "".join(shown) == text
    assert [text[at : at + len(token)] for at, token in zip(offsets[-len(shown) :], shown, strict=True)] == shown


def test_what_a_request_sends_that_has_no_effect_is_told(folder: Path) -> None:
    with serving(folder) as server:
        asked = {"prompt": "a", "api_server": "x", "top_a": 0.2, "tfs": 1, "dry_multiplier": 0, "max_tokens": 2}
        answer = httpx.post(f"{server.url}/v1/completions", json=asked)
        assert answer.headers["x-aphrodite-ignored"] == "api_server, top_a"
        assert answer.json()["ignored_params"] == ["api_server", "top_a"]
        streamed = httpx.post(f"{server.url}/v1/completions", json={**asked, "stream": True})
        first, *others = frames(streamed.text)
        assert first["ignored_params"] == ["api_server", "top_a"]
        assert not any("ignored_params" in other for other in others if other != "[DONE]")


def test_a_failure_before_the_first_token_is_an_answer_and_later_a_frame(folder: Path) -> None:
    engine = ScriptedEngine(lambda request: [RuntimeError("0xdeadbeef at /srv/secret")])
    with serving(folder, engine) as server:
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "stream": True})
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal"
        assert "deadbeef" not in answer.text and "secret" not in answer.text
        engine.script = lambda request: [60, 61, 0.2, RuntimeError("no")]
        parts = frames(httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "stream": True}).text)
        assert parts[-1] == "[DONE]" and parts[-2]["error"]["code"] == "internal"
        assert all(not choice.get("finish_reason") for part in parts[:-2] for choice in part["choices"])


def test_a_name_that_no_header_may_hold_is_spelled_out(folder: Path) -> None:
    with serving(folder) as server:
        asked = {"prompt": "a", "max_tokens": 1, "\x1f\r\nset-cookie: x": 1, "g\u00fc": 2, "\ud83d\ude00": 3}
        body = json.dumps(asked).encode()
        answer = httpx.post(f"{server.url}/v1/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200 and "set-cookie" not in answer.headers
        assert answer.headers["x-aphrodite-ignored"].isascii()
