"""Anthropic's dialect, asked by its own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from tests.server.says import TOOLS_TEMPLATE, saying
from tests.server.serving import NAME, Serving, serving

ASK: dict[str, Any] = {"model": NAME, "max_tokens": 400, "messages": [{"role": "user", "content": "how is it?"}]}
TOOL = {"name": "weather", "description": "how it is", "input_schema": {"type": "object", "properties": {}}}
CALLING = (
    'I look.\n<tool_call>{"name": "weather", "arguments": {"city": "the"}}</tool_call>'
    '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
)


class Clients:
    """Makes clients, and closes them in the end."""

    def __init__(self) -> None:
        self._made: list[anthropic.Anthropic] = []

    def __call__(self, server: Serving, key: str = "any") -> anthropic.Anthropic:
        self._made.append(anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0, timeout=20))
        return self._made[-1]

    def close(self) -> None:
        for one in self._made:
            one.close()


@pytest.fixture
def client() -> Iterator[Clients]:
    made = Clients()
    yield made
    made.close()


def prompt(server: Serving) -> str:
    """What the last request was given, as text."""
    tokenizer = server.service.host.model.frontend.tokenizer  # type: ignore[union-attr]
    assert tokenizer is not None
    return tokenizer.decode(server.engine.added[-1].prompt_token_ids)


def test_a_message_and_its_stream_say_the_same(folder: Path, client: Clients) -> None:
    with serving(folder, saying(folder, "the engine isn't done")) as server:
        whole = client(server).messages.create(**ASK)
        assert [block.type for block in whole.content] == ["text"]
        assert whole.content[0].text == "the engine isn't done"
        assert whole.stop_reason == "end_turn" and whole.role == "assistant" and whole.id.startswith("msg_")
        with client(server).messages.stream(**ASK) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_message()
    assert final.content[0].text == whole.content[0].text  # type: ignore[union-attr]
    assert final.usage.output_tokens == whole.usage.output_tokens > 0
    assert final.usage.input_tokens == whole.usage.input_tokens > 0
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"


def test_thoughts_and_calls_are_blocks_in_their_order(folder: Path, client: Clients) -> None:
    engine = saying(folder, f"it is so</think>{CALLING}")
    ask = {**ASK, "tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 1024}}
    with serving(folder, engine, chat_template=TOOLS_TEMPLATE) as server:
        whole = client(server).messages.create(**ask)
        assert [block.type for block in whole.content] == ["thinking", "text", "tool_use", "tool_use"]
        thought, text, first, second = whole.content
        assert thought.thinking == "it is so" and text.text == "I look."  # type: ignore[union-attr]
        assert (first.name, first.input) == ("weather", {"city": "the"})  # type: ignore[union-attr]
        assert second.input == {} and first.id != second.id  # type: ignore[union-attr]
        assert whole.stop_reason == "tool_use"
        with client(server).messages.stream(**ask) as stream:
            list(stream)
            final = stream.get_final_message()
        assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert [getattr(block, "input", None) for block in final.content] == [None, None, {"city": "the"}, {}]
        assert "<think>" in prompt(server) and "weather" in prompt(server)


def test_thoughts_that_nobody_asked_for_are_left_out(folder: Path, client: Clients) -> None:
    with serving(folder, saying(folder, "<think>hm</think>yes"), chat_template=TOOLS_TEMPLATE) as server:
        whole = client(server).messages.create(**ASK)
        assert [block.type for block in whole.content] == ["text"]
        with client(server).messages.stream(**ASK) as stream:
            list(stream)
            assert [block.type for block in stream.get_final_message().content] == ["text"]


def test_results_of_tools_and_thoughts_go_back_to_the_template(folder: Path, client: Clients) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "how", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "the"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "so?"},
            ],
        },
    ]
    with serving(folder, saying(folder, "the"), chat_template=TOOLS_TEMPLATE) as server:
        client(server).messages.create(
            **{**ASK, "messages": messages, "system": [{"type": "text", "text": "Be brief."}]}
        )
        found = prompt(server)
    for part in (
        "<system>Be brief.",
        "<user>how",
        "<think>hm</think>I look.",
        '"city": "the"',
        "<tool>rain",
        "<user>so?",
    ):
        assert part in found, (part, found)


def test_an_answer_that_the_caller_has_begun_goes_on_there(folder: Path, client: Clients) -> None:
    messages = [*ASK["messages"], {"role": "assistant", "content": "It is"}]
    with serving(folder, saying(folder, " so")) as server:
        assert client(server).messages.create(**{**ASK, "messages": messages}).content[0].text == " so"  # type: ignore[union-attr]
        assert prompt(server).endswith("It is")


def test_reasons_for_the_end(folder: Path, client: Clients) -> None:
    with serving(folder, saying(folder, "the engine isn't", reason="length")) as server:
        assert client(server).messages.create(**{**ASK, "max_tokens": 20}).stop_reason == "max_tokens"
        beyond = client(server).messages.create(**{**ASK, "max_tokens": 10_000})
        assert beyond.stop_reason == "model_context_window_exceeded", "the context ends before the answer may"
        cut = client(server).messages.create(**ASK, stop_sequences=[" isn"])
        assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", " isn")
        assert cut.content[0].text == "the engine"  # type: ignore[union-attr]


def test_tokens_are_counted_as_the_model_gets_them(folder: Path, client: Clients) -> None:
    with serving(folder, saying(folder, "the")) as server:
        counted = client(server).messages.count_tokens(model=NAME, messages=ASK["messages"], system="Be brief.")
        whole = client(server).messages.create(**ASK, system="Be brief.")
    assert counted.input_tokens == whole.usage.input_tokens


def test_a_conversation_is_counted_however_long_it_is(folder: Path, client: Clients) -> None:
    messages = [{"role": "user", "content": "a b " * 600}]
    with serving(folder) as server:
        counted = client(server).messages.count_tokens(model=NAME, messages=messages)  # type: ignore[arg-type]
        refused = httpx.post(f"{server.url}/v1/messages", json={**ASK, "messages": messages})
        listed = httpx.post(f"{server.url}/tokenize", json={"messages": messages})
    assert refused.status_code == 400 and counted.input_tokens > 1024
    assert f"messages has {counted.input_tokens} tokens" in refused.json()["error"]["message"]
    assert listed.json()["count"] == len(listed.json()["tokens"]) == counted.input_tokens


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_tokens": None}, "max_tokens must be there"),
        ({"max_tokens": 0}, "max_tokens must be an integer in 1"),
        ({"output_format": {"type": "json_schema", "schema": {}}}, "output_format {'type': 'json_schema'"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format {'type': 'json_schema'"),
        ({"thinking": 7}, "thinking must be an object, got 7"),
        ({"tools": [TOOL, {**TOOL, "name": "g", "input_schema": 7}]}, "tools[1].input_schema must be an object"),
        ({"tools": [{"name": f"f{i}"} for i in range(129)]}, "tools[128] is one too many"),
        ({"n": 10**9}, "n must be an integer in 1..64, got 1000000000"),
        ({"messages": []}, "messages must be a list of at least one"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role must be user or assistant"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].type is 'image'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]},
            "messages[0].content[0].tool_use_id is 'x', which no tool_use",
        ),
        ({"tools": [{**TOOL, "type": "web_search_20250305"}]}, "tools[0].type is 'web_search_20250305'"),
        ({"tools": [{**TOOL, "name": ""}]}, "tools[0].name must be"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice any is not supported yet"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice names 'x'"),
        ({"thinking": {"type": "maybe"}}, "thinking.type must be"),
        ({"stop_sequences": "a"}, "stop_sequences must be a list"),
        ({"stop_sequences": [""]}, "stop_sequences must be a text, or a list"),
        ({"temperature": -1}, "temperature must be"),
        ({"stream": "yes"}, "stream must be true or false"),
        ({"system": 3}, "system must be a text"),
    ],
)
def test_a_refusal_is_in_its_own_words_and_names_the_field(change: dict[str, Any], said: str, folder: Path) -> None:
    with serving(folder) as server:
        answer = httpx.post(f"{server.url}/v1/messages", json={**ASK, **change})
    assert answer.status_code == 400
    found = answer.json()
    assert found["type"] == "error" and found["error"]["type"] == "invalid_request_error"
    assert found["error"]["message"].startswith(said), found
    assert found["request_id"] == answer.headers["x-request-id"]


def test_its_client_knows_the_errors(folder: Path, client: Clients) -> None:
    with serving(folder, keys=("secret",)) as server:
        with pytest.raises(anthropic.AuthenticationError):
            client(server).messages.create(**ASK)
        named = client(server, "secret")
        with pytest.raises(anthropic.NotFoundError, match="no model 'other'"):
            named.messages.create(**{**ASK, "model": "other"})
        assert named.messages.create(**ASK).content
        server.service.is_draining = True
        with pytest.raises(anthropic.APIStatusError) as caught:
            named.messages.create(**ASK)
        assert caught.value.status_code == 529 and "overloaded_error" in str(caught.value.body)


def test_its_client_finds_the_id_of_a_request(folder: Path, client: Clients) -> None:
    with serving(folder) as server:
        messages = client(server).messages
        with messages.stream(**ASK) as stream:
            assert stream.request_id
        named = {"x-request-id": "mine"}
        assert messages.create(**ASK, extra_headers=named)._request_id == "mine"
        count = {"model": NAME, "messages": ASK["messages"]}
        assert messages.count_tokens(**count, extra_headers=named)._request_id == "mine"
        with pytest.raises(anthropic.BadRequestError) as caught:
            messages.create(**{**ASK, "max_tokens": 0}, extra_headers=named)
        assert caught.value.request_id == "mine"


def test_what_has_no_effect_is_listed(folder: Path) -> None:
    with serving(folder, saying(folder, "the")) as server:
        body = {**ASK, "metadata": {"user_id": "7"}, "container": "x", "top_k": 5,
                "thinking": {"type": "enabled", "budget_tokens": 2000}}  # fmt: skip
        answer = httpx.post(f"{server.url}/v1/messages", json=body)
        assert answer.headers["x-aphrodite-ignored"] == "container, thinking.budget_tokens, metadata"
        assert server.engine.added[-1].sampling.top_k == 5


def test_a_failure_in_a_stream_is_an_event(folder: Path) -> None:
    engine = saying(folder, "the")
    engine.script = lambda request: [60, 61, 0.2, RuntimeError("no")]
    with serving(folder, engine) as server:
        text = httpx.post(f"{server.url}/v1/messages", json={**ASK, "stream": True}).text
    last = text.strip().split("\n\n")[-1]
    kind, data = last.split("\n")
    assert kind == "event: error" and json.loads(data.removeprefix("data: "))["error"]["type"] == "api_error"
    assert "message_stop" not in text


def test_a_call_whose_arguments_are_cut_off_is_shown_as_text(folder: Path, client: Clients) -> None:
    cut = '<tool_call>{"name": "weather", "arguments": {"city": "th'
    with serving(folder, saying(folder, cut, reason="length"), chat_template=TOOLS_TEMPLATE) as server:
        whole = client(server).messages.create(**ASK, tools=[TOOL])  # type: ignore[list-item]
    assert whole.stop_reason in ("max_tokens", "model_context_window_exceeded")
    assert whole.content[0].text == 'weather {"city": "th'  # type: ignore[union-attr]


def test_tools_stand_in_the_prompt_as_openais_do(folder: Path) -> None:
    question = {"messages": [{"role": "user", "content": "how is it?"}], "max_tokens": 4}
    function = {"name": TOOL["name"], "description": TOOL["description"], "parameters": TOOL["input_schema"]}
    with serving(folder, chat_template=TOOLS_TEMPLATE) as server:
        for path, tool in (("messages", TOOL), ("chat/completions", {"type": "function", "function": function})):
            answer = httpx.post(f"{server.url}/v1/{path}", json={**question, "tools": [tool]})
            assert answer.status_code == 200, answer.text
        ours, theirs = server.engine.added
    assert ours.prompt_token_ids == theirs.prompt_token_ids
