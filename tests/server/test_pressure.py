"""A cache for an eighth of what is asked for at once: everybody gets what they get alone, on every device."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.real import Real, real
from tests.support.checkpoints import Checkpoints

CACHE = 96  # tokens
TIMES = 8
WORDS = ("the engine schedules a step", "a block holds sixteen tokens", "Grüße aus der Küche", "another one of these")


def bodies() -> list[dict[str, Any]]:
    """Requests of all kinds; the lengths of all together are TIMES what the cache holds."""
    rng = random.Random(59)
    found: list[dict[str, Any]] = []
    num_tokens = 0
    while num_tokens < TIMES * CACHE:
        place = len(found)
        length, count = rng.choice((3, 20, 45)), rng.choice((9, 16, 30))
        body: dict[str, Any] = {
            "prompt": [rng.randrange(3, 320) for _ in range(length)] if place % 3 else rng.choice(WORDS),
            "max_tokens": count,
            "temperature": (0, 1.0, 0.7)[place % 3],
            "seed": place,
            "n": 4 if place % 5 == 1 else 1,
            "priority": place % 4,
            "stream": place % 2 == 1,
            "ignore_eos": True,
        }
        if place % 4 == 2:
            body["repetition_penalty"] = 1.3
        found.append(body)
        num_tokens += body["n"] * (length + count)
    return found


def ask(server: Real, body: dict[str, Any]) -> dict[int, tuple[str, str | None]]:
    """By choice, its text and why it ended."""
    answer = httpx.post(f"{server.server.url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    if not body["stream"]:
        return {choice["index"]: (choice["text"], choice["finish_reason"]) for choice in answer.json()["choices"]}
    frames = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert frames.pop() == "[DONE]"
    found: dict[int, tuple[str, str | None]] = {}
    for frame in frames:
        for choice in json.loads(frame)["choices"]:
            text, reason = found.get(choice["index"], ("", None))
            assert reason is None, "it goes on after its end"
            found[choice["index"]] = (text + choice["text"], choice["finish_reason"])
    return found


def with_stop(server: Real, body: dict[str, Any]) -> dict[str, Any]:
    """The same, to be ended by some text from its middle, if it has any."""
    text = ask(server, body)[0][0]
    middle = text[len(text) // 2 :][:3]
    return {**body, "stop": [middle, "never written"]} if middle.strip() else body


@pytest.fixture(scope="module")
def model(checkpoints: Checkpoints) -> Path:
    return checkpoints.llama(seed=33, num_hidden_layers=1)


def num_preemptions(server: Real) -> float:
    text = httpx.get(f"{server.server.url}/metrics").text
    samples = {one.name: one.value for family in text_string_to_metric_families(text) for one in family.samples}
    return samples["aphrodite:num_preemptions_total"]


def test_eight_times_what_the_cache_holds_is_served_as_if_each_were_alone(model: Path, device: str) -> None:
    settings = {"max_model_len": CACHE, "max_num_batched_tokens": 40, "scheduling_policy": "priority"}
    with real(model, device, CACHE, **settings) as server:
        asked = [with_stop(server, body) if place % 3 != 1 else body for place, body in enumerate(bodies())]
        alone = [ask(server, body) for body in asked]
        assert {reason for one in alone for _, reason in one.values()} == {"stop", "length"}
        server.check_idle()
        before = num_preemptions(server)
        # which of them are preempted hangs on their order
        assert server.together([partial(ask, server, body) for body in asked]) == alone
        count = num_preemptions(server) - before
        print(f"{len(asked)} requests, {count:g} preemptions")
        assert count >= 3
        server.check_idle()
        assert ask(server, asked[0]) == alone[0], "the canary"
