"""Kobold's dialect, as SillyTavern and Kobold Lite use it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from aphrodite.text.tokenizer import Tokenizer
from tests.server import clients
from tests.server.engine import ScriptedEngine
from tests.server.says import saying
from tests.server.serving import serving
from tests.support.waiting import until


def events(text: str) -> list[Any]:
    """The data of message events, as SillyTavern reads them."""
    found = []
    for event in text.strip().split("\n\n"):
        kind, data = event.split("\n")
        assert kind == "event: message"
        found.append(json.loads(data.removeprefix("data:")))
    return found


@pytest.mark.parametrize("name", clients.KOBOLD)
@pytest.mark.parametrize("at", ["/api/v1/generate", "/api/latest/generate"])
def test_bodies_of_its_clients_are_answered(name: str, at: str, folder: Path) -> None:
    client = clients.KOBOLD[name]
    with serving(folder) as server:
        answer = httpx.post(server.url + at, json=client.body)
        assert answer.status_code == 200, answer.text
        (result,) = answer.json()["results"]
        assert result["text"] and result["finish_reason"] == "length" and result["completion_tokens"] == 6
        sampling = server.engine.added[-1].sampling
        assert {name: getattr(sampling, name) for name in client.means} == client.means
        assert set(answer.headers.get("x-aphrodite-ignored", "").split(", ")) == client.ignored


def test_the_tokens_of_a_stream_are_the_text(folder: Path) -> None:
    with serving(folder, saying(folder, "the engine isn't done")) as server:
        body = {"prompt": "a", "max_length": 50}
        whole = httpx.post(f"{server.url}/api/v1/generate", json=body).json()["results"][0]
        streamed = httpx.post(f"{server.url}/api/extra/generate/stream", json=body)
        parts = events(streamed.text)
        assert streamed.headers["content-type"].startswith("text/event-stream")
    assert "".join(part["token"] for part in parts) == whole["text"] == "the engine isn't done"
    assert [part["finish_reason"] for part in parts if part["finish_reason"]] == ["stop"]


def test_a_generation_is_looked_at_and_ended_by_its_key(folder: Path) -> None:
    with serving(folder, saying(folder, "the engine isn't done", ends=threading.Event())) as server:
        found: dict[str, Any] = {}
        body = {"prompt": "a", "max_length": 50, "genkey": "KCPP1"}
        work = threading.Thread(
            target=lambda: found.update(httpx.post(f"{server.url}/api/v1/generate", json=body).json())
        )
        work.start()

        def text() -> str:
            answer = httpx.post(f"{server.url}/api/extra/generate/check", json={"genkey": "KCPP1"})
            return str(answer.json()["results"][0]["text"]) if answer.status_code == 200 else ""

        until(text)
        assert "the engine isn't done".startswith(text())
        for other in ({}, {"genkey": ""}):
            assert httpx.post(f"{server.url}/api/extra/generate/check", json=other).json()["results"] == [{"text": ""}]
            assert httpx.post(f"{server.url}/api/extra/abort", json=other).json()["success"] == "false"
        for path in ("/api/extra/generate/check", "/api/extra/abort"):
            assert httpx.post(server.url + path, json={"genkey": "KCPP2"}).status_code == 404
        assert httpx.get(f"{server.url}/api/extra/perf").json()["idle"] == 0
        ended = httpx.post(f"{server.url}/api/extra/abort", json={"genkey": "KCPP1"})
        work.join(60)
        assert ended.json()["success"] == "true"
        (result,) = found["results"]
        assert result["finish_reason"] == "abort" and result["text"] == "the engine isn't done"
        assert server.engine.aborted and not server.engine.live and server.service.admission.num_taken == 0
        assert httpx.get(f"{server.url}/api/extra/perf").json()["idle"] == 1


def test_nobody_finds_the_generation_of_another_key(folder: Path) -> None:
    with serving(folder, saying(folder, "the engine isn't done", pause_s=0.3), keys=("mine", "other")) as server:
        mine, other = ({"authorization": f"Bearer {key}"} for key in ("mine", "other"))
        body = {"prompt": "a", "max_length": 50, "genkey": "k"}
        with httpx.stream("POST", f"{server.url}/api/extra/generate/stream", json=body, headers=mine) as answer:
            found = answer.iter_lines()
            next(found)
            for path in ("/api/extra/generate/check", "/api/extra/abort"):
                refused = httpx.post(server.url + path, json={"genkey": "k"}, headers=other)
                unknown = httpx.post(server.url + path, json={"genkey": "x"}, headers=other)
                assert refused.status_code == unknown.status_code == 404 and refused.json() == unknown.json()
                assert httpx.post(server.url + path, json={}, headers=other).status_code == 200
            rest = "".join(found)
        assert '"finish_reason":"stop"' in rest and not server.engine.aborted


def test_without_a_key_only_a_generation_that_nobody_can_confuse_is_ended(folder: Path) -> None:
    ends = threading.Event()
    with serving(folder, saying(folder, "the engine isn't done", ends=ends)) as server:

        def generate(into: list[Any]) -> threading.Thread:
            url = f"{server.url}/api/v1/generate"
            thread = threading.Thread(target=lambda: into.append(httpx.post(url, json={"prompt": "a"}).json()))
            thread.start()
            return thread

        def wait(count: int) -> None:
            until(lambda: httpx.get(f"{server.url}/api/extra/perf").json()["queue"] == count)

        found: list[Any] = []
        threads = [generate(found), generate(found)]
        wait(2)
        assert httpx.post(f"{server.url}/api/extra/abort").json()["success"] == "false"  # SillyTavern sends no body
        ends.set()
        for thread in threads:
            thread.join(60)
        assert [one["results"][0]["finish_reason"] for one in found] == ["stop", "stop"]
        ends.clear()
        alone = generate(found)
        wait(1)
        assert httpx.post(f"{server.url}/api/extra/abort").json()["success"] == "true"
        alone.join(60)
        assert found[-1]["results"][0]["finish_reason"] == "abort"


def test_a_client_that_leaves_its_stream_ends_it(folder: Path) -> None:
    with serving(folder, saying(folder, "the engine isn't done", ends=threading.Event())) as server:
        body = {"prompt": "a", "max_length": 50, "genkey": "k"}
        with httpx.stream("POST", f"{server.url}/api/extra/generate/stream", json=body) as answer:
            next(answer.iter_lines())
        until(lambda: not server.engine.live)
        until(lambda: not httpx.get(f"{server.url}/api/extra/perf").json()["queue"])
        assert httpx.get(f"{server.url}/api/extra/perf").json()["idle"] == 1


def test_max_context_length_cuts_the_prompts_beginning_and_keeps_the_memory(folder: Path) -> None:
    tokenizer = Tokenizer.find(folder)
    assert tokenizer is not None
    prompt = "the engine isn't done " * 30
    with serving(folder) as server:
        for memory in ("", "schedules a step "):
            body = {"prompt": prompt, "memory": memory, "max_context_length": 60, "max_length": 10}
            assert httpx.post(f"{server.url}/api/v1/generate", json=body).status_code == 200
            given = list(server.engine.added[-1].prompt_token_ids)
            head = tokenizer.encode(memory)
            assert given == [*head, *tokenizer.encode_bare(prompt)[len(head) - 50 :]] and len(given) == 50
        body = {"prompt": "the engine", "memory": "schedules ", "max_context_length": 60, "max_length": 10}
        httpx.post(f"{server.url}/api/v1/generate", json=body)
        assert list(server.engine.added[-1].prompt_token_ids) == tokenizer.encode("schedules the engine")
        refused = httpx.post(f"{server.url}/api/v1/generate", json={**body, "max_length": 60})
        assert refused.status_code == 400 and refused.json()["detail"]["param"] == "max_length"
        too_long = httpx.post(f"{server.url}/api/v1/generate", json={"prompt": prompt * 9})
        assert too_long.status_code == 400 and too_long.json()["detail"]["type"] == "context_length_exceeded"


def test_stops_and_single_lines(folder: Path) -> None:
    with serving(folder, saying(folder, "the engine\nisn't done")) as server:

        def text(**changes: Any) -> str:
            body = {"prompt": "a", "max_length": 50, **changes}
            return str(httpx.post(f"{server.url}/api/v1/generate", json=body).json()["results"][0]["text"])

        assert text(stop_sequence=[" isn", "eng", ""]) == "the "
        assert text(stop_sequence=["eng"], trim_stop=False) == "the eng"
        assert text(singleline=True) == "the engine"
        assert text(stop_sequence="gine") == "the en"


def test_what_its_clients_ask_about_the_server(folder: Path) -> None:
    tokenizer = Tokenizer.find(folder)
    assert tokenizer is not None
    with serving(folder) as server:

        def get(path: str) -> Any:
            answer = httpx.get(server.url + path)
            assert answer.status_code == 200, path
            return answer.json()

        assert get("/api/v1/info/version")["result"] >= "1.2.2"  # SillyTavern sends stop sequences from there on
        cpp = get("/api/extra/version")
        assert cpp["result"] == "KoboldCpp" and tuple(map(int, cpp["version"].split("."))) >= (1, 30)  # and streams
        assert get("/api/v1/model") == {"result": "aphrodite/tiny"}
        assert get("/api/v1/config/max_context_length") == get("/api/extra/true_max_context_length") == {"value": 512}
        assert 0 < get("/api/v1/config/max_length")["value"] < 512
        assert get("/api/v1/config/soft_prompts_list") == {"values": []} and get("/api/extra/preloadstory") == {}
        counted = httpx.post(f"{server.url}/api/extra/tokencount", json={"prompt": "the engine"}).json()
        assert counted == {"value": len(tokenizer.encode("the engine")), "ids": tokenizer.encode("the engine")}
        text = httpx.post(f"{server.url}/api/extra/detokenize", json={"ids": counted["ids"]}).json()["result"]
        assert text == tokenizer.decode(counted["ids"])
        httpx.post(f"{server.url}/api/v1/generate", json={"prompt": "the engine", "max_length": 3})
        perf = get("/api/extra/perf")
        assert (perf["total_gens"], perf["last_token_count"], perf["stop_reason"]) == (1, 3, 0)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "a", "max_length": 0}, "max_length"),
        ({"prompt": "a", "stop_sequence": {"a": 1}}, "stop_sequence"),
        ({"prompt": "a", "stop_sequence": [3]}, "stop_sequence"),
        ({"prompt": "a", "images": ["x"]}, "images"),
        ({"prompt": "a", "audio": ["x"]}, "audio"),
        ({"prompt": "a", "genkey": "x" * 200}, "genkey"),
        ({"prompt": "a", "rep_pen": -1}, "rep_pen"),
    ],
)
def test_a_refusal_is_in_its_own_words(body: dict[str, Any], param: str, folder: Path) -> None:
    with serving(folder) as server:
        answer = httpx.post(f"{server.url}/api/v1/generate", json=body)
    assert answer.status_code == 400
    detail = answer.json()["detail"]
    assert detail["param"] == param and detail["msg"].startswith(param)


def test_a_failure_is_told_and_nothing_is_left(folder: Path) -> None:
    with serving(folder, ScriptedEngine(lambda request: [60, 0.2, RuntimeError("no")])) as server:
        answer = httpx.post(f"{server.url}/api/v1/generate", json={"prompt": "a"})
        assert answer.status_code == 500 and answer.json()["detail"]["type"] == "internal"
        text = httpx.post(f"{server.url}/api/extra/generate/stream", json={"prompt": "a"}).text
        assert text.strip().split("\n\n")[-1].startswith("event: error")
        assert httpx.get(f"{server.url}/api/extra/perf").json()["queue"] == 0
