"""The Responses API: the official client's view, what is kept, and for whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from aphrodite.server.responses.store import Kept, Store
from tests.server.engine import ScriptedEngine
from tests.server.says import TOOLS_TEMPLATE, WEATHER, saying
from tests.server.serving import NAME, Serving, serving


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    with serving(folder) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as found:
        yield found


def test_the_official_client_reads_a_response_and_its_events(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": NAME, "input": "the engine", "max_output_tokens": 6, "temperature": 0.5}
    whole = client.responses.create(**asked)
    assert whole.status == "incomplete" and whole.incomplete_details is not None
    assert whole.usage is not None and whole.usage.output_tokens == 6
    events = list(client.responses.create(**asked, stream=True))
    assert [one.sequence_number for one in events] == list(range(len(events)))
    kinds = [one.type for one in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = "".join(one.delta for one in events if one.type == "response.output_text.delta")
    assert whole.output[0].status == "incomplete"  # type: ignore[union-attr]
    assert deltas == whole.output_text == events[-1].response.output_text  # type: ignore[union-attr]


def test_a_response_is_kept_and_gone_on_from(server: Serving, client: openai.OpenAI) -> None:
    first = client.responses.create(model=NAME, input="one", max_output_tokens=3, instructions="Be brief.")
    assert client.responses.retrieve(first.id).output_text == first.output_text
    second = client.responses.create(
        model=NAME, input=[{"role": "user", "content": "two"}], max_output_tokens=2, previous_response_id=first.id
    )
    chat = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "two"},
    ]
    same = client.chat.completions.create(model=NAME, messages=chat, max_tokens=2)  # type: ignore[arg-type]
    assert second.usage is not None and same.usage is not None
    assert second.usage.input_tokens == same.usage.prompt_tokens
    assert server.engine.added[-1].prompt_token_ids == server.engine.added[-2].prompt_token_ids
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        list(client.responses.retrieve(second.id, stream=True))
    assert caught.value.param == "stream"
    unkept = client.responses.create(model=NAME, input="one", max_output_tokens=3, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_another_tenant_finds_nothing(folder: Path) -> None:
    with serving(folder, keys=("sk-a", "sk-b")) as server:
        mine = httpx.post(
            f"{server.url}/v1/responses", json={"input": "a", "max_output_tokens": 2}, headers={"x-api-key": "sk-a"}
        ).json()["id"]
        for key, status in (("sk-a", 200), ("sk-b", 404)):
            headers = {"x-api-key": key}
            assert httpx.get(f"{server.url}/v1/responses/{mine}", headers=headers).status_code == status
            assert httpx.post(f"{server.url}/v1/responses/{mine}/cancel", headers=headers).status_code == status
            chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "cache_salt": "x"}
            httpx.post(f"{server.url}/v1/chat/completions", json=chat, headers=headers)
        assert httpx.delete(f"{server.url}/v1/responses/{mine}", headers={"x-api-key": "sk-b"}).status_code == 404
        salts = {request.cache_salt for request in server.engine.added[-2:]}
        assert len(salts) == 2 and all(salt is not None and salt.endswith(":x") for salt in salts)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "image"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": "x"}, {"role": "nobody", "content": "x"}]}, "input[1].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"input": "a", "previous_response_id": "resp_none"}, "previous_response_id"),
        ({"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "a", "truncation": "auto"}, "truncation"),
    ],
    ids=repr,
)
def test_what_cannot_be_used_is_named(server: Serving, asked: dict[str, Any], param: str) -> None:
    answer = httpx.post(f"{server.url}/v1/responses", json=asked)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_a_picture_is_refused_as_one(server: Serving) -> None:
    content = [{"type": "input_text", "text": "what is it?"}, {"type": "input_image", "image_url": "data:,"}]
    answer = httpx.post(f"{server.url}/v1/responses", json={"input": [{"role": "user", "content": content}]})
    assert "input[0].content[1] is of type 'input_image', and only text" in answer.json()["error"]["message"]


def test_a_stream_that_fails_says_so_with_an_event(folder: Path) -> None:
    engine = ScriptedEngine(lambda request: [*request.prompt_token_ids[-1:] * 3, 0.2, RuntimeError("secret")])
    with serving(folder, engine) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        events = list(client.responses.create(model=NAME, input="a", stream=True))
        assert events[-1].type == "response.failed" and "secret" not in str(events[-1])
        name = events[0].response.id  # type: ignore[union-attr]
        assert client.responses.retrieve(name).status == "failed"


def test_a_response_that_its_client_ends_stays_cancelled(folder: Path) -> None:
    slow = ScriptedEngine(lambda request: [*request.prompt_token_ids[-1:], 0.05] * 200)
    with serving(folder, slow) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        stream = client.responses.create(model=NAME, input="a", max_output_tokens=200, stream=True)
        events = iter(stream)
        first = next(events)
        assert first.type == "response.created"
        name = first.response.id
        assert client.responses.retrieve(name).status == "in_progress"
        assert any(event.type == "response.output_text.delta" for event in events), "something has come"
        assert client.responses.cancel(name).status == "cancelled"
        last = list(events)[-1]
        assert last.type == "response.failed" and last.response.status == "cancelled"
        kept = client.responses.retrieve(name)
        assert kept.status == "cancelled"
        assert [item.status for item in kept.output] == ["incomplete"]  # type: ignore[union-attr]


def test_the_store_keeps_within_its_bounds() -> None:
    store = Store(max_responses=3, max_bytes=1000)
    for number in range(5):
        store.put(str(number), Kept({"id": str(number)}, [], [], None))
    assert len(store) == 3 and store.get("1", None) is None and store.get("2", None) is not None
    store.put("5", Kept({"id": "5"}, [], [], None))
    assert store.get("3", None) is None and store.get("2", None) is not None, "the longest unused goes"
    store.put("large", Kept({"text": "x" * 2000}, [], [], None))
    assert store.get("large", None) is None
    store.put("large", Kept({"text": "x" * 900}, [], [], None))
    assert len(store) <= 3 and store.num_bytes <= 1000


@pytest.mark.parametrize("streams", [False, True])
def test_tokens_of_reasoning_are_counted(folder: Path, streams: bool) -> None:
    thought = "let me think of it"
    with serving(folder, saying(folder, f"<think>{thought}</think>the answer"), chat_template=TOOLS_TEMPLATE) as server:
        asked: dict[str, Any] = {"model": NAME, "input": "why?", "max_output_tokens": 200}
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            if streams:
                found = list(client.responses.create(**asked, stream=True))[-1].response  # type: ignore[union-attr]
            else:
                found = client.responses.create(**asked)
        model = server.service.host.model
    assert model is not None and model.frontend.tokenizer is not None
    assert found.output[0].content[0].text == thought and found.output_text == "the answer"
    assert found.usage.output_tokens_details.reasoning_tokens == len(model.frontend.tokenizer.encode_bare(thought))
    assert found.usage.output_tokens_details.reasoning_tokens < found.usage.output_tokens


def test_the_official_client_lists_what_a_response_was_asked(server: Serving, client: openai.OpenAI) -> None:
    first = client.responses.create(model=NAME, input="one", max_output_tokens=3, instructions="Be brief.")
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
    said: list[Any] = [{"role": "user", "content": "two"}, call]
    said += [{"type": "function_call_output", "call_id": "c", "output": "fine"}]
    second = client.responses.create(model=NAME, input=said, max_output_tokens=2, previous_response_id=first.id)
    only = client.responses.input_items.list(first.id)
    assert [item.content[0].text for item in only.data] == ["one"]  # type: ignore[union-attr]
    items = list(client.responses.input_items.list(second.id, order="asc", limit=2))  # the client asks page by page
    assert [item.type for item in items] == [
        "message", "message", "message", "function_call", "function_call_output",
    ]  # fmt: skip
    assert items[1].id == first.output[0].id and items[3].name == "weather"  # type: ignore[union-attr]
    newest = client.responses.input_items.list(second.id).data
    assert [item.id for item in newest] == [item.id for item in reversed(items)]
    assert len({item.id for item in items}) == 5
    url = f"{server.url}/v1/responses/{second.id}/input_items"
    page = httpx.get(url, params={"order": "asc", "after": items[0].id, "limit": 3}).json()
    assert [item["id"] for item in page["data"]] == [item.id for item in items[1:4]]
    assert page["has_more"] is True and (page["first_id"], page["last_id"]) == (items[1].id, items[3].id)
    before = httpx.get(url, params={"order": "asc", "before": items[3].id, "limit": 2}).json()
    assert [item["id"] for item in before["data"]] == [item.id for item in items[1:3]] and before["has_more"] is True
    client.responses.delete(second.id)
    assert httpx.get(url).status_code == 404


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("limit=%D9%A3", "limit"),
     ("order=up", "order"), ("after=msg_0", "after"), ("before=", "before")],
)  # fmt: skip
def test_a_page_that_cannot_be_had_is_named(client: openai.OpenAI, server: Serving, query: str, param: str) -> None:
    made = client.responses.create(model=NAME, input="one", max_output_tokens=1)
    answer = httpx.get(f"{server.url}/v1/responses/{made.id}/input_items?{query}")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    assert answer.json()["error"]["message"].startswith(f"{param} must be ")


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"role": "nobody", "content": "a"}, "input[3].role"),
        ({"role": "user"}, "input[3].content"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[3].content[0].text"),
        ({"role": "user", "content": [7]}, "input[3].content[0]"),
        ({"role": "user", "content": "a", "id": 7}, "input[3].id"),
        ({"type": "function_call", "call_id": "d", "arguments": "{}"}, "input[3].name"),
        ({"type": "function_call", "call_id": ["d"], "name": "f", "arguments": "{}"}, "input[3].call_id"),
        ({"type": "function_call", "call_id": "d", "name": "f", "arguments": "{"}, "input[3].arguments"),
        ({"type": "function_call_output", "call_id": "x", "output": "a"}, "input[3].call_id"),
        ({"type": "function_call_output", "call_id": {}, "output": "a"}, "input[3].call_id"),
        ({"type": "computer_call"}, "input[3]"),
    ],
)
def test_an_item_that_cannot_be_used_has_its_number_whatever_stands_before_it(
    client: openai.OpenAI, server: Serving, item: dict[str, Any], param: str
) -> None:
    first = client.responses.create(model=NAME, input="one", max_output_tokens=1)
    calls = [{"type": "function_call", "call_id": name, "name": "f", "arguments": "{}"} for name in "cd"]
    said = [{"role": "user", "content": "two"}, *calls, item]  # both calls are one message
    asked = {"input": said, "instructions": "Be brief.", "previous_response_id": first.id}
    answer = httpx.post(f"{server.url}/v1/responses", json=asked)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and error["message"].startswith(param)
    assert "messages" not in error["message"]


def test_a_query_of_any_kind_is_no_fault_of_the_server(server: Serving, client: openai.OpenAI) -> None:
    made = client.responses.create(model=NAME, input="one", max_output_tokens=1)
    queries = ["&".join(f"a{at}=1" for at in range(count)) for count in (64, 65, 900)]
    for query in [*queries, "a=%ff%fe", "=&&&==", "limit=%00", "%F0%9F%98%80=1", "a;b", "stream=false&stream"]:
        for path in (made.id, f"{made.id}/input_items"):
            answer = httpx.get(f"{server.url}/v1/responses/{path}?{query}")
            assert answer.status_code in (200, 400), (query, answer.text)
            if query in queries[1:]:
                assert answer.json()["error"]["message"].startswith("the query must have at most 64 fields, got ")
            elif answer.status_code == 200:
                assert answer.headers["x-aphrodite-ignored"], query


def test_tools_are_named_as_they_stand_here(server: Serving) -> None:
    tool = {"type": "function", **WEATHER["function"], "parameters": {"type": "text"}}  # type: ignore[dict-item]
    answer = httpx.post(f"{server.url}/v1/responses", json={"input": "a", "tools": [tool]})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "tools[0].parameters.type"


def test_an_input_that_is_too_long_is_called_input(server: Serving) -> None:
    answer = httpx.post(f"{server.url}/v1/responses", json={"input": "a b " * 600, "instructions": "Be brief."})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["code"] == "context_length_exceeded" and error["param"] == "input"
    assert error["message"].startswith("input has ")
