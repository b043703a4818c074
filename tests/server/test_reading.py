"""Reasoning and calls are told apart in OpenAI's dialect, as the model's chat template or the operator says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from aphrodite.engine.host import FixedHost
from aphrodite.errors import UsageError
from aphrodite.server.metrics import Metrics
from aphrodite.server.service import Service, ServiceSettings
from aphrodite.text.tokenizer import Tokenizer
from tests.server import clients
from tests.server.engine import ScriptedEngine
from tests.server.says import TOOLS_TEMPLATE, WEATHER, saying
from tests.server.serving import NAME, serving
from tests.server.test_openai import frames

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "how is it?"}]}
OUTPUT = '<think>hm</think>I look.\n<tool_call>{"name": "weather", "arguments": {"city": "the"}}</tool_call>'


def ask(url: str, **changes: Any) -> Any:
    return httpx.post(f"{url}/v1/chat/completions", json={**ASK, **changes}).json()["choices"][0]


def test_reasoning_and_calls_stand_apart_whole_and_in_parts(folder: Path) -> None:
    with serving(folder, saying(folder, OUTPUT), chat_template=TOOLS_TEMPLATE) as server:
        choice = ask(server.url, tools=[WEATHER])
        message = choice["message"]
        assert (message["content"], message["reasoning_content"]) == ("I look.", "hm")
        assert message["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "the"}'}
        assert choice["finish_reason"] == "tool_calls"
        body = {**ASK, "tools": [WEATHER], "stream": True}
        *parts, done = frames(httpx.post(f"{server.url}/v1/chat/completions", json=body).text)
        assert done == "[DONE]"
        deltas = [part["choices"][0]["delta"] for part in parts]
        assert "".join(delta.get("content") or "" for delta in deltas) == "I look."
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert calls[0]["id"] and calls[0]["function"]["name"] == "weather"
        assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "the"}'
        assert parts[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_without_tools_a_call_is_content(folder: Path) -> None:
    with serving(folder, saying(folder, OUTPUT), chat_template=TOOLS_TEMPLATE) as server:
        for changes in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
            choice = ask(server.url, **changes)
            assert choice["message"]["content"] == OUTPUT.partition("</think>")[2]
            assert choice["finish_reason"] == "stop" and "tool_calls" not in choice["message"]
        choice = ask(server.url, separate_reasoning=False)
        assert choice["message"]["content"] == OUTPUT


def test_a_thought_that_the_prompt_opens_is_one(folder: Path) -> None:
    with serving(folder, saying(folder, "hm</think>yes"), chat_template=TOOLS_TEMPLATE) as server:
        message = ask(server.url, chat_template_kwargs={"enable_thinking": True})["message"]
        assert (message["reasoning_content"], message["content"]) == ("hm", "yes")
        assert ask(server.url)["message"]["content"] == "hm</think>yes"


def test_the_operator_may_name_formats(folder: Path) -> None:
    plain = '{"name": "weather", "parameters": {}}'
    with serving(folder, saying(folder, plain), chat_template=TOOLS_TEMPLATE, tool_call_parser="llama3") as server:
        assert ask(server.url, tools=[WEATHER])["message"]["tool_calls"][0]["function"]["name"] == "weather"
    settings = {"tool_call_parser": "none", "reasoning_parser": "none"}
    with serving(folder, saying(folder, OUTPUT), chat_template=TOOLS_TEMPLATE, **settings) as server:
        assert ask(server.url, tools=[WEATHER])["message"]["content"] == OUTPUT
    with pytest.raises(UsageError, match="tool_call_parser must be one of"):
        Service(FixedHost(None), ServiceSettings((NAME,), 1, tool_call_parser="qwen"), Metrics(NAME))


def test_markers_that_are_special_tokens_are_seen_and_not_shown(folder: Path) -> None:
    """Byte-level tokenizers of the tests have `</s>` as a special token: here it takes the part of a marker."""
    tokenizer = Tokenizer.find(folder)
    assert tokenizer is not None
    special = sorted(tokenizer.special_tokens)[0]
    ids = [*tokenizer.encode_bare("the"), *tokenizer.encode_bare(special), *tokenizer.encode_bare("engine")]
    engine = ScriptedEngine(lambda request: [*ids, "stop"])
    with serving(folder, engine, chat_template=TOOLS_TEMPLATE) as server:
        assert ask(server.url)["message"]["content"] == "theengine"
        model = server.service.host.model
        assert model is not None
        reading = server.service.reading(model)
        assert reading.kept(None) == frozenset()
        assert special not in reading.kept(None) and "chat template" in reading.selection.tools_reason


@pytest.mark.parametrize("name", clients.CHATS)
def test_chats_of_known_clients_are_answered(name: str, folder: Path) -> None:
    client = clients.CHATS[name]
    with serving(folder) as server:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=client.body)
        assert answer.status_code == 200, answer.text
        sampling = server.engine.added[-1].sampling
        assert {name: getattr(sampling, name) for name in client.means} == client.means
        assert set(answer.json().get("ignored_params", ())) == client.ignored


@pytest.mark.parametrize("name", clients.TOOLS)
def test_streams_with_tools_of_known_clients_bring_the_call(name: str, folder: Path) -> None:
    client = clients.TOOLS[name]
    with serving(folder, saying(folder, OUTPUT), chat_template=TOOLS_TEMPLATE) as server:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=client.body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        sampling = server.engine.added[-1].sampling
        prompt = Tokenizer.find(folder).decode(server.engine.added[-1].prompt_token_ids)  # type: ignore[union-attr]
    assert {name: getattr(sampling, name) for name in client.means} == client.means
    assert "how is it?" in prompt and '"weather"' in prompt
    assert ("fine" in prompt) is (client.body["messages"][-1].get("content") == "fine")
    *parts, done = frames(answer.text)
    assert done == "[DONE]"
    usage = [part["usage"] for part in parts if part.get("usage")]
    assert len(usage) == ("stream_options" in client.body)
    choices = [part["choices"][0] for part in parts if part["choices"]]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert {call["index"] for call in calls} == {0} and calls[0]["type"] == "function" and calls[0]["id"]
    assert "".join(call["function"].get("name") or "" for call in calls) == "weather"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "the"}'
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"]
    assert set(parts[0].get("ignored_params", ())) == client.ignored


@pytest.mark.parametrize("name", clients.PICTURES)
def test_pictures_of_known_clients_are_refused_by_name(name: str, folder: Path) -> None:
    with serving(folder) as server:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=clients.PICTURES[name].body)
        assert not server.engine.added
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == "messages[0].content"
    assert error["message"].startswith("messages[0].content[1] is of type 'image_url'")


def test_sillytaverns_whole_settings_are_answered(folder: Path) -> None:
    body = clients.COMPLETIONS["SillyTavern, Aphrodite"]
    with serving(folder) as server:
        answer = httpx.post(f"{server.url}/v1/completions", json=body.body)
        assert answer.status_code == 200 and answer.json()["choices"][0]["text"]
        assert set(answer.headers["x-aphrodite-ignored"].split(", ")) == body.ignored


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/completions", {"prompt": "a", "top_a": 0.5}, "top_a"),
        ("/v1/chat/completions", {**ASK, "user": "me"}, "user"),
        ("/v1/messages", {**ASK, "max_tokens": 1, "metadata": {"user_id": "me"}}, "metadata"),
        ("/api/v1/generate", {"prompt": "a", "tfs": 0.9}, "tfs"),
        ("/api/chat", {**ASK, "options": {"mirostat": 2}}, "mirostat"),
    ],
)
def test_strict_servers_refuse_what_others_would_list(path: str, body: dict[str, Any], name: str, folder: Path) -> None:
    with serving(folder, strict_params=True) as server:
        refused = httpx.post(server.url + path, json=body)
        assert refused.status_code == 400 and f"{name} has no effect here" in refused.text
        body = {key: value for key, value in body.items() if key not in (name, "options")}
        assert httpx.post(server.url + path, json=body).status_code == 200


def test_a_broken_chat_template_spoils_chats_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    with serving(tmp_path) as server:
        assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"}).status_code == 200
        assert httpx.post(f"{server.url}/v1/chat/completions", json=ASK).status_code == 500
