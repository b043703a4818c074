"""Parameters at the edges of what is legal, and just beyond, against engines that compute."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from aphrodite.engine.requests import Prepared
from aphrodite.server.errors import ApiError
from aphrodite.server.logprobs import LogprobBounds
from aphrodite.server.service import ServiceSettings
from aphrodite.types.request import Request
from aphrodite.types.sampling_params import SamplingParams
from tests.server.conftest import TEMPLATE
from tests.server.real import Real, real
from tests.support.checkpoints import Checkpoints, write_json
from tests.support.devices import DEVICES, require
from tests.support.waiting import until

PROMPT = [5, 60, 70, 80, 90]


@pytest.fixture(scope="module")
def model(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    original = checkpoints.llama(seed=35, num_hidden_layers=1)
    found = checkpoints.copy(original, tmp_path_factory.mktemp("edges") / "model")
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    write_json(found / "tokenizer_config.json", config)
    return found


@pytest.fixture(scope="module", params=DEVICES)
def server(request: pytest.FixtureRequest, model: Path) -> Iterator[Real]:
    with real(model, require(request.param), 3200, max_num_batched_tokens=64) as found:
        yield found
        found.check_idle()


def ask(server: Real, path: str = "/v1/completions", **asked: Any) -> httpx.Response:
    return httpx.post(server.server.url + path, json=asked, timeout=60)


def text(server: Real, **asked: Any) -> str:
    body = {"prompt": PROMPT, "max_tokens": 12, "ignore_eos": True, **asked}
    answer = ask(server, **body)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


# What float32 holds, what it holds with fewer digits, what is 0 there and what is hardly a number anywhere.
@pytest.mark.parametrize("temperature", [1e-5, 1e-30, 1e-38, 1e-42, 1e-45, 1e-46, 1e-300, 5e-324])
def test_a_temperature_that_is_nearly_0_is_greedy(server: Real, temperature: float) -> None:
    greedy = text(server, temperature=0)
    for others in ({}, {"top_k": 5, "top_p": 0.5, "min_p": 0.1}, {"repetition_penalty": 1.0, "logit_bias": {"9": 0}}):
        assert text(server, temperature=temperature, seed=1, **others) == greedy
    beside = threading.Thread(target=text, args=(server,), kwargs={"temperature": 1.0, "seed": 2})
    beside.start()
    assert text(server, temperature=temperature, seed=1) == greedy
    beside.join()


@pytest.mark.parametrize(
    "neutral",
    [{"top_p": 1, "top_k": 0}, {"top_k": -1}, {"top_k": 2**31 - 1}, {"min_p": 0}, {"repetition_penalty": 1}],
    ids=repr,
)
def test_values_that_are_documented_as_neutral_change_nothing(server: Real, neutral: dict[str, Any]) -> None:
    assert text(server, temperature=1, seed=5, **neutral) == text(server, temperature=1, seed=5)


def test_the_strictest_truncations_are_greedy(server: Real) -> None:
    greedy = text(server, temperature=0)
    for strict in ({"top_k": 1}, {"top_p": 5e-324}, {"top_p": 1e-45}, {"min_p": 1}):
        assert text(server, temperature=1, seed=6, **strict) == greedy


def test_a_stop_of_spaces_ends_where_they_first_stand(server: Real) -> None:
    whole = text(server, temperature=0, max_tokens=80)
    assert " " in whole
    for stop in (" ", whole[:1], whole[3:9], whole[-2:]):
        answer = ask(server, prompt=PROMPT, max_tokens=80, temperature=0, ignore_eos=True, stop=[stop, "\0never"])
        choice = answer.json()["choices"][0]
        assert choice["text"] == whole.partition(stop)[0] and choice["finish_reason"] == "stop"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": "x" * (1 << 20)}, "stop"),
    ({"stop": ["ok", "é" * 129]}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.0001}, "top_p"),
    ({"top_k": -5}, "top_k"),
    ({"top_k": 2**31}, "top_k"),
    ({"min_p": 1.1}, "min_p"),
    ({"min_p": -0.1}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_penalty": -1}, "repetition_penalty"),
    ({"temperature": -1e-30}, "temperature"),
    ({"dry_sequence_breakers": '["\\n", ":'}, "dry_sequence_breakers"),
    ({"dry_sequence_breakers": "[" * 100_000}, "dry_sequence_breakers"),
    ({"dry_sequence_breakers": [1]}, "dry_sequence_breakers"),
]
CHAT = {"messages": [{"role": "user", "content": "the engine"}]}


@pytest.mark.parametrize(("asked", "param"), REFUSED, ids=lambda value: repr(value)[:50])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_what_is_just_beyond_is_refused_by_name(model: Path, server: Real, path: str, asked: Any, param: str) -> None:
    body = {"prompt": PROMPT} if path == "/v1/completions" else CHAT
    until(lambda: not server.loop.call(lambda engine: engine.has_work))  # of whoever was served before
    before = server.stats.num_steps
    answer = ask(server, path, **body, **asked)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, "invalid_value") and len(answer.content) < 1000
    assert server.stats.num_steps == before


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/api/v1/generate", {"prompt": "a", "rep_pen": 0}, "rep_pen"),
        ("/api/v1/generate", {"prompt": "a", "top_p": 0}, "top_p"),
        ("/api/v1/generate", {"prompt": "a", "stop_sequence": ["x"] * 17}, "stop_sequence"),
        ("/api/generate", {"model": "tiny", "prompt": "a", "options": {"top_k": -5}}, "top_k"),
        ("/api/generate", {"model": "tiny", "prompt": "a", "options": {"min_p": 1.1}}, "min_p"),
        ("/v1/messages", {**CHAT, "model": "tiny", "max_tokens": 5, "top_p": 0}, "top_p"),
        ("/v1/messages", {**CHAT, "model": "tiny", "max_tokens": 5, "stop_sequences": ["x"] * 17}, "stop_sequences"),
        ("/v1/responses", {"model": "tiny", "input": "a", "top_p": 0}, "top_p"),
    ],
    ids=repr,
)
def test_every_dialect_refuses_it_in_its_own_words(server: Real, path: str, body: dict[str, Any], name: str) -> None:
    answer = ask(server, path, **body)
    assert answer.status_code == 400 and name in answer.text, answer.text
    assert "Traceback" not in answer.text


# ---- log-probabilities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "asked", "param"),
    [
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ("/v1/completions", {"logprobs": 21}, "logprobs"),
        ("/v1/completions", {"logprobs": 10**6}, "logprobs"),
        ("/v1/completions", {"prompt_logprobs": 320}, "prompt_logprobs"),
        ("/v1/completions", {"prompt": [PROMPT] * 257, "echo": True}, "prompt"),
    ],
)
def test_more_of_them_than_there_are_is_refused(server: Real, path: str, asked: dict[str, Any], param: str) -> None:
    answer = ask(server, path, **{**({"prompt": PROMPT} if path == "/v1/completions" else CHAT), **asked})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_those_of_a_prompt_that_no_answer_shows_are_not_computed_and_that_is_said(server: Real, path: str) -> None:
    body = {"prompt": [5] * 100} if path == "/v1/completions" else {**CHAT, "chat_template": None}
    for stream in (False, True):
        answer = ask(server, path, **body, prompt_logprobs=3, max_tokens=1, temperature=0, stream=stream)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-aphrodite-ignored"] == "prompt_logprobs"
        assert '"ignored_params":["prompt_logprobs"]' in answer.text


def test_256_prompts_are_echoed_each_with_its_own(server: Real) -> None:
    prompts = [[5 + place, 60, 7 + place] for place in range(256)]
    answer = ask(server, prompt=prompts, echo=True, logprobs=1, max_tokens=1, temperature=0)
    choices = answer.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(256))
    for place in (0, 100, 255):
        alone = ask(server, prompt=prompts[place], echo=True, logprobs=1, max_tokens=1, temperature=0)
        (expected,) = alone.json()["choices"]
        assert choices[place]["text"] == expected["text"]
        found, wanted = choices[place]["logprobs"], expected["logprobs"]
        assert found["tokens"] == wanted["tokens"] and found["token_logprobs"][0] is None
        assert found["token_logprobs"][1:] == pytest.approx(wanted["token_logprobs"][1:], abs=1e-4)


@pytest.mark.parametrize("stream", [False, True])
def test_of_prompts_an_answer_holds_so_many_and_no_more(model: Path, stream: bool) -> None:
    most = 2000
    with real(model, "cpu", 3200, max_num_batched_tokens=64, service={"max_prompt_logprobs": most}) as server:
        asked = {"echo": True, "logprobs": 4, "max_tokens": 1, "temperature": 0, "stream": stream}
        assert ask(server, prompt=[[5] * 200, [6] * 200], **asked).status_code == 200  # 400 tokens, 5 of each
        for over in (
            {**asked, "prompt": [[5] * 200, [6] * 201]},
            {**asked, "prompt": [[5] * 100] * 2, "temperature": 1, "n": 3},
            {**asked, "prompt": [[5] * 100], "logprobs": 20},
        ):
            refused = ask(server, **over)
            assert refused.status_code == 400 and refused.json()["error"]["param"] == "logprobs"
            assert str(most) in refused.json()["error"]["message"]
        server.check_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_of_outputs_an_answer_may_hold_so_many_and_no_more(model: Path, stream: bool) -> None:
    most = 1000
    with real(model, "cpu", 3200, service={"max_output_logprobs": most}) as server:
        asked = {"prompt": [[5] * 20] * 2, "logprobs": 4, "max_tokens": 100, "temperature": 0, "stream": stream}
        assert ask(server, **asked).status_code == 200  # 2 x 100 tokens, 5 of each
        for over in (
            {**asked, "max_tokens": 101},
            {**asked, "logprobs": 5},
            {**asked, "prompt": [[5] * 20], "temperature": 1, "n": 3},
            {**asked, "prompt": [[5] * 20], "max_tokens": 10_000},  # there is room for 236
        ):
            refused = ask(server, **over)
            assert refused.status_code == 400 and refused.json()["error"]["param"] == "logprobs"
            assert f"at most {most}" in refused.json()["error"]["message"]
        short = {**asked, "prompt": [[5] * 60], "max_tokens": 1000}
        assert ask(server, **short).status_code == 200, "there is room for 196, whatever is asked"
        assert ask(server, **{**asked, "logprobs": None, "max_tokens": 200}).status_code == 200
        server.check_idle()


def test_what_ordinary_clients_ask_of_log_probabilities_is_within_the_bounds() -> None:
    settings = ServiceSettings((), 1)
    bounds = LogprobBounds(settings.max_prompt_logprobs, settings.max_output_logprobs)
    under_way = [Holding(4096 * 21)] * 64
    for max_tokens, room, logprobs, n in ((4096, 8192, 20, 1), (4096, 8192, 20, 16), (None, 131_000, 20, 1)):
        bounds.check([prepared(max_tokens, room, logprobs, n)], under_way, 1.0)
    with pytest.raises(ApiError) as caught:
        bounds.check([prepared(None, 131_000, 20, 64)], [], 1.0)
    assert (caught.value.status, caught.value.param) == (400, "logprobs")
    for many, status in (([Holding(4 << 20)] * 3, 429), ([Holding(4 << 20)], None)):
        for one in (prepared(10, 100, 0, 1), prepared(10, 100, None, 1)):
            if status is None or one.requests[0].sampling.logprobs is None:
                bounds.check([one], many, 3.0)
                continue
            with pytest.raises(ApiError) as caught:
                bounds.check([one], many, 3.0)
            assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (429, "queue_full", 3.0)


@dataclass
class Holding:
    """A request under way that holds so many."""

    num_logprobs: int
    prepared: tuple[Prepared, ...] = ()


def prepared(max_tokens: int | None, room: int, logprobs: int | None, n: int) -> Prepared:
    sampling = SamplingParams(max_tokens=max_tokens, logprobs=logprobs, n=n)
    total = 8 + (room if max_tokens is None else min(room, max_tokens))
    return Prepared(None, (Request("0", (5,) * 8, sampling, 0, frozenset(), total),))
