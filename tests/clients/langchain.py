"""LangChain's OpenAI chat model, unchanged but for the address: what it gives is what plain HTTP gives."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.server.process import Running

SUM = "What is 27 + 48?"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


@pytest.fixture
def chat(server: Running) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model="demo", temperature=0, max_tokens=60)


def plain(server: Running, content: str, **more: Any) -> Any:
    """The answer to the same question over plain HTTP."""
    asked = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 60, **more}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=asked)
    assert answer.status_code == 200
    return answer.json()


def whole(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    """The parts of a stream, added up as LangChain does."""
    found = chunks[0]
    for chunk in chunks[1:]:
        found += chunk
    return found


def test_invoke(chat: ChatOpenAI, server: Running) -> None:
    found, expected = chat.invoke(SUM), plain(server, SUM)
    assert found.content == expected["choices"][0]["message"]["content"] == "27 + 48 = 75"
    assert found.response_metadata["finish_reason"] == "stop" and found.response_metadata["model_name"] == "demo"
    assert found.usage_metadata is not None
    assert found.usage_metadata["input_tokens"] == expected["usage"]["prompt_tokens"]
    assert found.usage_metadata["output_tokens"] == expected["usage"]["completion_tokens"]


def test_a_conversation_of_several_roles(chat: ChatOpenAI) -> None:
    said = [SystemMessage("Be brief."), HumanMessage("My name is Anna."), AIMessage("Hello."), HumanMessage("Name?")]
    assert isinstance(chat.invoke(said).content, str)


@pytest.mark.parametrize("with_usage", [False, True])
def test_stream(chat: ChatOpenAI, server: Running, with_usage: bool) -> None:
    chunks = list(chat.stream(SUM, stream_usage=with_usage))
    found, expected = whole(chunks), plain(server, SUM)
    assert found.content == expected["choices"][0]["message"]["content"]
    assert sum(bool(chunk.content) for chunk in chunks) > 3, "it did not come in parts"
    assert found.response_metadata["finish_reason"] == "stop"
    if with_usage:
        assert found.usage_metadata is not None
        assert found.usage_metadata["total_tokens"] == expected["usage"]["total_tokens"]
    else:
        assert found.usage_metadata is None


def test_the_asynchronous_calls(chat: ChatOpenAI) -> None:
    async def both() -> tuple[AIMessage, AIMessageChunk]:
        return await chat.ainvoke(SUM), whole([chunk async for chunk in chat.astream(SUM)])

    one, streamed = asyncio.run(both())
    assert one.content == streamed.content == "27 + 48 = 75"


def test_batch(chat: ChatOpenAI) -> None:
    asked = [f"What is {left} + 48?" for left in range(20, 36)]
    assert [one.content for one in chat.batch(asked)] == [chat.invoke(question).content for question in asked]


def test_log_probabilities_and_stops(chat: ChatOpenAI) -> None:
    found = chat.bind(logprobs=True, top_logprobs=2, stop=["="]).invoke(SUM)
    assert found.content == "27 + 48 "
    entries = found.response_metadata["logprobs"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in entries)


@pytest.mark.parametrize("choice", ["auto", None])
@pytest.mark.parametrize("streams", [False, True])
def test_a_tool_is_called_and_its_result_told(chat: ChatOpenAI, choice: str | None, streams: bool) -> None:
    bound = chat.bind_tools([WEATHER], tool_choice=choice)
    question = "What is the weather in London?"
    call = whole(list(bound.stream(question))) if streams else bound.invoke(question)
    (wanted,) = call.tool_calls
    assert (wanted["name"], wanted["args"]) == ("get_weather", {"city": "London"}) and wanted["id"]
    assert call.response_metadata["finish_reason"] == "tool_calls" and not call.invalid_tool_calls
    result = ToolMessage(json.dumps({"sky": "sunny", "degrees": 21}), tool_call_id=wanted["id"])
    told = bound.invoke([HumanMessage(question), call, result])
    assert told.content == "It is sunny in London, 21 degrees." and not told.tool_calls


def test_tools_made_of_functions_are_taken_and_none_calls_none(chat: ChatOpenAI) -> None:
    @tool
    def get_weather(city: str, days: int = 1) -> str:
        """The weather in a city."""
        return city * days

    assert chat.bind_tools([get_weather, Person]).invoke(SUM).content
    assert not chat.bind_tools([WEATHER], tool_choice="none").invoke("What is the weather in London?").tool_calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_output_that_would_have_to_be_constrained_is_refused_by_name(chat: ChatOpenAI, method: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="is not supported yet") as raised:
        chat.with_structured_output(Person, method=method).invoke("Tom is 34.")
    assert raised.value.param == ("tool_choice" if method == "function_calling" else "response_format")


@pytest.mark.parametrize(
    ("wrong", "param", "kind"),
    [
        ({"temperature": -1}, "temperature", openai.BadRequestError),
        ({"model": "nothing"}, "model", openai.NotFoundError),
        ({"tool_choice": "required", "tools": [WEATHER]}, "tool_choice", openai.BadRequestError),
        ({"n": 1000}, "n", openai.BadRequestError),
    ],
)
def test_a_refusal_is_an_error_of_the_client_that_names_the_field(
    chat: ChatOpenAI, wrong: dict[str, Any], param: str, kind: type[openai.APIStatusError]
) -> None:
    for ask in (lambda: chat.bind(**wrong).invoke(SUM), lambda: list(chat.bind(**wrong).stream(SUM))):
        with pytest.raises(kind) as raised:
            ask()
        assert raised.value.param == param


def test_pictures_are_refused_by_name(chat: ChatOpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError, match="image"):
        chat.invoke([HumanMessage([{"type": "text", "text": "What is this?"}, picture])])


def test_the_responses_api_is_taken_too(server: Running) -> None:
    chat = ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="demo", temperature=0, max_tokens=60, use_responses_api=True
    )
    assert chat.invoke(SUM).text == whole(list(chat.stream(SUM))).text == "27 + 48 = 75"
