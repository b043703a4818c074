"""Every field of every body is obeyed, refused by its name, or listed: none vanishes, whatever it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aphrodite.types.sampling_params import parameters
from tests.server.says import TOOLS_TEMPLATE
from tests.server.serving import NAME, Serving, serving

HEADER = "x-aphrodite-ignored"
ASKED = [{"role": "user", "content": "a b"}]
# What each route answers with 200, and the fields that it or its clients know, but sampling parameters.
BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/responses": (
        {"input": "a b", "max_output_tokens": 2, "stream": True},
        "model input instructions stream stream_options store previous_response_id tools tool_choice text truncation "
        "parallel_tool_calls reasoning include background metadata user service_tier chat_template_kwargs prompt "
        "chat_template prompt_cache_key safety_identifier top_logprobs max_output_tokens max_tool_calls conversation "
        "context_management priority cache_salt timeout",
    ),
    "/v1/messages": (
        {"messages": ASKED, "max_tokens": 2},
        "model messages system stream tools tool_choice thinking metadata service_tier stop_sequences container "
        "mcp_servers output_config output_format cache_control inference_geo",
    ),
    "/v1/messages/count_tokens": (
        {"messages": ASKED},
        "model messages system tools tool_choice thinking output_config output_format max_tokens stream metadata",
    ),
    "/api/v1/generate": (
        {"prompt": "a b", "max_length": 2},
        "prompt memory max_context_length max_length genkey singleline trim_stop render_special model images audio "
        "replace_instruct_placeholders stop_sequence sampler_order sampler_seed rep_pen use_default_badwordsids",
    ),
    "/api/extra/generate/check": ({}, "genkey model"),
    "/api/extra/abort": ({}, "genkey model"),
    "/api/extra/tokencount": ({"prompt": "a b"}, "prompt special model"),
    "/api/extra/detokenize": ({"ids": [5]}, "ids model"),
    "/api/chat": (
        {"messages": ASKED, "stream": False, "options": {"num_predict": 2}},
        "model messages stream format keep_alive options think tools truncate shift logprobs top_logprobs name prompt",
    ),
    "/api/generate": (
        {"prompt": "a b", "stream": False, "options": {"num_predict": 2}},
        "model prompt suffix images system template context stream raw format keep_alive options think truncate shift "
        "logprobs top_logprobs name messages",
    ),
    "/api/show": ({"model": NAME}, "model verbose other"),
    "/v1/chat/completions": (
        {"messages": ASKED, "max_tokens": 2},
        "model messages stream stream_options tools tool_choice functions function_call reasoning_effort chat_template "
        "chat_template_kwargs add_generation_prompt continue_final_message documents separate_reasoning top_logprobs "
        "parallel_tool_calls response_format user metadata store service_tier modalities priority cache_salt timeout "
        "add_special_tokens max_completion_tokens prediction audio web_search_options verbosity prompt_cache_key "
        "safety_identifier",
    ),
    "/v1/completions": (
        {"prompt": "a b", "max_tokens": 2},
        "model prompt stream stream_options echo suffix best_of user response_format priority cache_salt timeout "
        "add_special_tokens",
    ),
    "/tokenize": ({"messages": ASKED}, "model messages prompt add_special_tokens return_token_strs tools tool_choice "
                  "add_generation_prompt continue_final_message chat_template chat_template_kwargs documents"),
    "/detokenize": ({"tokens": [5]}, "model tokens other"),
}  # fmt: skip
WITH_PARAMETERS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/api/v1/generate",
    "/api/chat",
)
# One value of each kind that JSON has; no field means something by all of them.
KINDS: tuple[Any, ...] = (True, 7, -7, 0.5, "\x00 nonsense", [7, "x"], {"zz": [None]}, [[]], 2**64, "x" * 300)
CASES = [(path, name) for path, (_, names) in BODIES.items() for name in names.split()]
CASES += [(path, item.name) for path in WITH_PARAMETERS for item in parameters()]
CASES += [(path, "unheard_of") for path in BODIES]


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    with serving(folder, chat_template=TOOLS_TEMPLATE) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as found:
        yield found


def body_with(path: str, name: str, value: Any) -> dict[str, Any]:
    """The route's body with a field; Ollama has parameters apart."""
    body = json.loads(json.dumps(BODIES[path][0]))
    holder = body["options"] if path == "/api/chat" and name not in BODIES[path][1].split() else body
    if name == "messages" and path == "/api/generate":
        return {**body, name: value}
    holder[name] = value
    return dict(body)


def told(path: str, answer: httpx.Response) -> str:
    """An error's sentence, which stands where the dialect has it."""
    found = answer.json()
    if path.startswith("/v1/messages"):
        assert found["type"] == "error" and found["request_id"]
        return str(found["error"]["message"])
    if path.startswith(("/api/v1", "/api/extra")):
        return str(found["detail"]["msg"])
    if path.startswith("/api/"):
        assert set(found) == {"error"}
        return str(found["error"])
    assert set(found["error"]) == {"message", "type", "param", "code"}
    return str(found["error"]["message"])


@pytest.mark.parametrize(("path", "name"), CASES, ids=[f"{path} {name}" for path, name in CASES])
def test_a_field_is_obeyed_refused_by_its_name_or_listed(client: httpx.Client, path: str, name: str) -> None:
    silent = []
    for value in KINDS:
        answer = client.post(path, json=body_with(path, name, value))
        assert answer.status_code in (200, 400, 404), (value, answer.text)
        if answer.status_code != 200:
            said = told(path, answer)
            assert name in said, f"{said!r} does not name {name}"
        elif not any(one.startswith(name[:20]) for one in answer.headers.get(HEADER, "").split(", ")):
            silent.append(value)
    assert len(silent) < len(KINDS) - 2, f"{name} is taken in silence, be it {silent}"


def test_null_is_as_good_as_absent(client: httpx.Client) -> None:
    for path, (body, names) in BODIES.items():
        fields = {name: None for name in [*names.split(), "unheard_of"] if name not in body}
        answer = client.post(path, json={**body, **fields})
        assert answer.status_code == 200 and HEADER not in answer.headers, (path, answer.text)


def test_strict_parameters_refuse_on_every_route(folder: Path) -> None:
    with serving(folder, strict_params=True, chat_template=TOOLS_TEMPLATE) as server, httpx.Client() as client:
        for path in BODIES:
            answer = client.post(server.url + path, json={**BODIES[path][0], "unheard_of": 1})
            assert answer.status_code == 400, path
            assert told(path, answer).startswith("unheard_of has no effect here"), path


NESTED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": "x", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
            {"role": "tool", "tool_call_id": "c", "content": "ok"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {
            "type": "object", "properties": {"a": {"type": "string", "pattern": "a", "anyOf": [{}]}}}}}],
        "max_tokens": 2,
    },
    "/v1/responses": {
        "instructions": "s",
        "input": [
            {"role": "user", "id": "i", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "reasoning", "id": "r", "summary": []},
            {"type": "function_call", "id": "q", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "ok"},
        ],
        "reasoning": {"effort": "low", "summary": "auto"}, "text": {"format": {"type": "text"}},
        "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}}],
        "metadata": {"a": "b"}, "max_output_tokens": 2,
    },
    "/v1/messages": {
        "system": [{"type": "text", "text": "s"}],
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [
                {"type": "text", "text": "ok"}]}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
        "thinking": {"type": "enabled", "budget_tokens": 9}, "output_config": {"effort": "low"}, "max_tokens": 2,
    },
    "/api/chat": {
        "messages": [
            {"role": "user", "content": "a", "images": []},
            {"role": "assistant", "content": "b", "thinking": "t", "tool_calls": [
                {"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "tool_name": "f", "tool_call_id": "c", "content": "ok"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "options": {"num_predict": 2, "stop": ["zz"]}, "stream": False,
    },
}  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a body, however deep."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*at, key)
        yield from places(inner, (*at, key))


@pytest.mark.parametrize("path", NESTED)
def test_whatever_stands_anywhere_in_a_conversation_is_no_fault_of_the_server(
    client: httpx.Client, server: Serving, path: str
) -> None:
    assert client.post(path, json=NESTED[path]).status_code == 200
    for place in places(NESTED[path]):
        for value in KINDS:
            body = json.loads(json.dumps(NESTED[path]))
            holder = body
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = value
            answer = client.post(path, json=body)
            assert answer.status_code in (200, 400), (place, value, answer.text)
            if answer.status_code == 400:
                said = told(path, answer)
                names = [key for key in place if isinstance(key, str)]
                assert any(name in said for name in names) or "max_model_len" in said, (place, value, said)
    assert not server.engine.live and not server.service.runs and server.service.admission.num_taken == 0
