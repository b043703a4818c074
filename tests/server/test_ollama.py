"""Ollama's dialect: lines, times and names as its clients expect them."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from aphrodite.engine.host import FixedHost, Health
from tests.server import clients
from tests.server.crowded import full
from tests.server.engine import ScriptedEngine
from tests.server.says import TOOLS_TEMPLATE, WEATHER, saying
from tests.server.serving import NAME, Serving, serving

CHAT: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "how is it?"}]}
OUTPUT = '<think>hm</think>I look.\n<tool_call>{"name": "weather", "arguments": {"city": "the"}}</tool_call>'


def post(server: Serving, path: str, body: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=20)


def lines(answer: httpx.Response) -> list[Any]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def prompt(server: Serving) -> str:
    model = server.service.host.model
    assert model is not None and model.frontend.tokenizer is not None
    return model.frontend.tokenizer.decode(server.engine.added[-1].prompt_token_ids)


@pytest.mark.parametrize(("path", "ask"), [("/api/chat", CHAT), ("/api/generate", {"model": NAME, "prompt": "how?"})])
def test_the_lines_of_a_stream_are_the_whole(path: str, ask: dict[str, Any], folder: Path) -> None:
    with serving(folder, saying(folder, "the engine isn't done", pause_s=0.01)) as server:
        *parts, last = lines(post(server, path, ask))  # it streams unless told not to
        whole = post(server, path, {**ask, "stream": False}).json()

    def text(one: Any) -> str:
        return str(one["response"] if path == "/api/generate" else one["message"]["content"])

    assert "".join(map(text, parts)) == text(whole) == "the engine isn't done" and text(last) == ""
    assert [part["done"] for part in parts] == [False] * len(parts) and len(parts) > 3
    for end in (last, whole):
        assert (end["done"], end["done_reason"]) == (True, "stop")
        assert end["eval_count"] == whole["eval_count"] > 0 and end["prompt_eval_count"] > 0
        assert end["total_duration"] >= 10_000_000 and end["total_duration"] >= end["eval_duration"] >= 0
        assert datetime.fromisoformat(end["created_at"]).tzinfo is not None and end["model"] == NAME


def test_thoughts_and_calls(folder: Path) -> None:
    ask = {**CHAT, "tools": [WEATHER]}
    call = {"name": "weather", "arguments": {"city": "the"}}
    with serving(folder, saying(folder, OUTPUT), chat_template=TOOLS_TEMPLATE) as server:
        message = post(server, "/api/chat", {**ask, "stream": False}).json()["message"]
        assert (message["thinking"], message["content"]) == ("hm", "I look.")
        assert [one["function"] for one in message["tool_calls"]] == [call]
        parts = [part["message"] for part in lines(post(server, "/api/chat", ask))]
        assert "".join(part.get("thinking", "") for part in parts) == "hm"
        assert "".join(part["content"] for part in parts) == "I look."
        assert [one["function"] for part in parts for one in part.get("tool_calls", ())] == [call]
        server.engine.script = saying(folder, "so</think>yes").script
        thought = post(server, "/api/generate", {"prompt": "how?", "think": True, "stream": False}).json()
        assert (thought["thinking"], thought["response"]) == ("so", "yes")
        assert prompt(server).endswith("<think>")


def test_a_conversation_with_calls_goes_back_to_the_template(folder: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "how"},
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
            {"function": {"name": "weather", "arguments": {"city": "the"}}}]},
        {"role": "tool", "content": "rain", "tool_name": "weather"},
    ]  # fmt: skip
    with serving(folder, saying(folder, "the"), chat_template=TOOLS_TEMPLATE) as server:
        assert post(server, "/api/chat", {**CHAT, "messages": messages, "stream": False}).status_code == 200
        found = prompt(server)
    for part in ("<system>Be brief.", "<user>how", "<think>hm</think>", '"city": "the"', "<tool>rain"):
        assert part in found, (part, found)


def test_generate_puts_a_prompt_into_the_template_unless_it_is_raw(folder: Path) -> None:
    with serving(folder, saying(folder, "the")) as server:
        post(server, "/api/generate", {"prompt": "how", "system": "Be brief."})
        assert "<system>Be brief.\n<user>how\n<assistant>" in prompt(server)
        post(server, "/api/generate", {"prompt": "how", "raw": True})
        assert prompt(server) == "how"


def test_a_model_without_a_template_takes_prompts_as_they_are(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    with serving(tmp_path, saying(folder, "the")) as server:
        assert post(server, "/api/generate", {"prompt": "how", "stream": False}).json()["response"] == "the"
        assert prompt(server) == "how"


@pytest.mark.parametrize("name", clients.OLLAMA)
def test_bodies_of_its_clients_are_answered(name: str, folder: Path) -> None:
    client = clients.OLLAMA[name]
    with serving(folder) as server:
        answer = post(server, "/api/chat" if "messages" in client.body else "/api/generate", client.body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == client.body["model"] and answer.json()["done_reason"] == "length"
        sampling = server.engine.added[-1].sampling
        assert {name: getattr(sampling, name) for name in client.means} == client.means
        listed = answer.headers.get("x-aphrodite-ignored")
        assert set(listed.split(", ") if listed else ()) == client.ignored


def test_options_mean_what_they_mean_there(folder: Path) -> None:
    with serving(folder, saying(folder, "the")) as server:
        for options, means in (({}, None), ({"num_predict": -1}, None), ({"num_predict": 3}, 3)):
            answer = post(server, "/api/chat", {**CHAT, "options": options})
            assert server.engine.added[-1].sampling.max_tokens == means
            assert "x-aphrodite-ignored" not in answer.headers
        asked = {**CHAT, "keep_alive": 0, "options": {"num_ctx": 99999, "mirostat": 2, "mirostat_tau": 3}, "future": 1}
        answer = post(server, "/api/chat", asked)
        listed = set(answer.headers["x-aphrodite-ignored"].split(", "))
        assert listed == {"mirostat", "mirostat_tau", "future", "keep_alive", "num_ctx"}
        kept = post(server, "/api/chat", {**CHAT, "keep_alive": "5m", "options": {"num_ctx": 256}})
        assert "x-aphrodite-ignored" not in kept.headers


def test_a_request_with_nothing_to_answer_loads_the_model(folder: Path) -> None:
    with serving(folder) as server:
        assert post(server, "/api/generate", {"model": NAME}).json()["done_reason"] == "load"
        found = post(server, "/api/chat", {"model": NAME, "messages": []}).json()
        assert found["done"] and found["message"] == {"role": "assistant", "content": ""}
        assert not server.engine.added


def test_the_model_is_listed_and_described(folder: Path) -> None:
    with serving(folder, chat_template=TOOLS_TEMPLATE) as server:
        (entry,) = httpx.get(f"{server.url}/api/tags").json()["models"]
        assert entry["name"] == entry["model"] == f"{NAME}:latest"
        assert isinstance(entry["size"], int) and len(entry["digest"]) == 64
        assert datetime.fromisoformat(entry["modified_at"])
        (loaded,) = httpx.get(f"{server.url}/api/ps").json()["models"]
        assert loaded["name"] == entry["name"] and loaded["context_length"] == 512
        for key in ("model", "name"):
            shown = post(server, "/api/show", {key: entry["name"]}).json()
            assert shown["template"] == TOOLS_TEMPLATE
            assert shown["capabilities"] == ["completion", "tools", "thinking"]
            assert shown["model_info"]["unknown.context_length"] == 512
        assert post(server, "/api/chat", {**CHAT, "model": entry["name"]}).status_code == 200
        assert httpx.get(f"{server.url}/api/version").json()["version"].count(".") == 2
        assert httpx.head(f"{server.url}/").status_code == 200
        assert httpx.get(f"{server.url}/").text == "Aphrodite is running\n"
        missing = post(server, "/api/chat", {**CHAT, "model": "other"})
        assert missing.status_code == 404 and "other" in missing.json()["error"]


def test_curl_as_its_documentation_calls_it_is_understood_and_a_page_in_a_browser_is_not(folder: Path) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = json.dumps({**CHAT, "stream": False})
    with serving(folder, saying(folder, "the")) as server:
        assert httpx.post(f"{server.url}/api/chat", content=body, headers=form).json()["message"]["content"] == "the"
        page = httpx.post(f"{server.url}/api/chat", content=body, headers={**form, "origin": "http://evil"})
        assert page.status_code == 415
        assert httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=form).status_code == 415


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"messages": "a"}, "messages must be a list"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role must be"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content must be a text"),
        ({"messages": [{"role": "user", "content": "a", "images": ["x"]}]}, "messages[0].images cannot be read"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0] must be"),
        ({"format": "json"}, "format 'json' is not supported yet"),
        ({"think": "much"}, "think must be"),
        ({"options": {"temperature": "hot"}}, "temperature must be"),
        ({"options": {"num_predict": 0}}, "num_predict must be"),
        ({"options": 3}, "options must be an object"),
        ({"tools": [{}]}, "tools[0]"),
        ({"stream": "no"}, "stream must be"),
    ],
)
def test_a_refusal_is_in_its_own_words(body: dict[str, Any], said: str, folder: Path) -> None:
    with serving(folder) as server:
        answer = post(server, "/api/chat", {**CHAT, **body})
    assert answer.status_code == 400 and answer.json()["error"].startswith(said), answer.text


def test_a_failure_in_a_stream_is_its_last_line(folder: Path) -> None:
    with serving(folder, ScriptedEngine(lambda request: [60, 0.2, RuntimeError("no")])) as server:
        *parts, last = lines(post(server, "/api/chat", CHAT))
        assert list(last) == ["error"] and not any(part["done"] for part in parts)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("more", [{}, {"keep_alive": "5m"}, {"stream": True, "options": {}}, {"stream": False}])
def test_who_only_loads_the_model_needs_no_place_in_the_queue(path: str, more: dict[str, Any], folder: Path) -> None:
    empty: dict[str, Any] = {"messages": []} if path == "/api/chat" else {"prompt": ""}
    with full(folder) as server:
        found = post(server, path, {"model": NAME, **empty, **more})
        assert found.status_code == 200 and found.json()["done_reason"] == "load" and found.json()["done"] is True
        for text in ("a", "a" * 600):  # short enough to be looked at, and too long
            asked = {"messages": [{"role": "user", "content": text}]} if path == "/api/chat" else {"prompt": text}
            refused = post(server, path, {"model": NAME, **asked})
            assert refused.status_code == 429 and list(refused.json()) == ["error"] and refused.headers["retry-after"]
        assert post(server, path, {"model": "other", **empty}).status_code == 404
        assert post(server, path, {"model": NAME, **empty, "options": {"top_p": 7}}).status_code == 400
        deadline = time.monotonic() + 5
        while server.service.admission.num_entering and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.service.admission.num_taken == 1 and server.service.admission.num_entering == 0


def test_nothing_is_loaded_while_there_is_no_model(folder: Path) -> None:
    with serving(folder, host=FixedHost(None, Health.LOADING)) as server:
        found = post(server, "/api/generate", {"model": NAME})
        assert found.status_code == 503 and "loading" in found.json()["error"]


def test_the_model_stays_loaded_and_who_wants_it_gone_is_told(folder: Path) -> None:
    with serving(folder) as server:
        for path in ("/api/chat", "/api/generate"):
            for value in (0, 0.0, "0", "0s", "0h0m", "-0s"):
                found = post(server, path, {"model": NAME, "keep_alive": value})
                assert found.status_code == 200 and found.headers["x-aphrodite-ignored"] == "keep_alive", value
            for value in (-1, 300, 2.5, "5m", "1h30m", "-1", "5", "1.5h", "100ms", None):
                found = post(server, path, {"model": NAME, "keep_alive": value})
                assert found.status_code == 200 and "x-aphrodite-ignored" not in found.headers, value


def test_how_long_the_model_stays_is_seconds_or_a_duration(folder: Path) -> None:
    with serving(folder) as server:
        for value in ("soon", "5 m", "m", "", "5x", "h5", "1e3s", True, [], {}, "5m " * 100):
            found = post(server, "/api/generate", {"model": NAME, "keep_alive": value})
            assert found.status_code == 400 and found.json()["error"].startswith("keep_alive must be seconds or a ")


def test_raw_leaves_no_place_for_what_a_template_writes(folder: Path) -> None:
    with serving(folder) as server:
        for name, value in {"system": "s", "template": "{{ .Prompt }}", "context": [1]}.items():
            found = post(server, "/api/generate", {"model": NAME, "prompt": "a", "raw": True, name: value})
            assert found.status_code == 400 and found.json()["error"].startswith(f"{name} must be left out"), name
        assert not server.engine.added


def test_a_prompt_that_is_too_long_is_called_what_the_client_calls_it(folder: Path) -> None:
    with serving(folder) as server:
        for raw in (True, False):
            found = post(server, "/api/generate", {"model": NAME, "prompt": "a b " * 600, "raw": raw})
            assert found.status_code == 400 and found.json()["error"].startswith("prompt has "), raw
