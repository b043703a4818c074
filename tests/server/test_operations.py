"""What those who run the server see: probes, metrics, the document, logs, the administrator's routes."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aphrodite.engine.frontend import Frontend
from aphrodite.engine.host import FixedHost, Health, Model
from aphrodite.server import logs
from aphrodite.server.openapi import document
from aphrodite.types.sampling_params import parameters
from aphrodite.types.stats import EngineStats
from tests.server.engine import ScriptedEngine
from tests.server.serving import Serving, card, serving
from tests.support.waiting import until

# What dashboards and scalers ask for: vllm-project/vllm examples/online_serving/prometheus_grafana/grafana.json at
# 004f771f, vllm-project/production-stack helm/dashboards/ at 98d2c22f, but for what its router counts.
VLLM = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:num_preemptions_total",
    "vllm:request_success_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:time_per_output_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:request_queue_time_seconds_bucket",
    "vllm:request_prefill_time_seconds_bucket",
    "vllm:request_decode_time_seconds_bucket",
    "vllm:request_prompt_tokens_bucket",
    "vllm:request_generation_tokens_bucket",
    "vllm:request_max_num_generation_tokens_sum",
    "vllm:gpu_prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_hits_total",
    "vllm:num_requests_swapped",
}


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    with serving(folder) as found:
        yield found


def samples(text: str) -> dict[str, float]:
    """The last sample of each name."""
    return {one.name: one.value for family in text_string_to_metric_families(text) for one in family.samples}


def test_metrics_count_what_was_done_under_both_names(server: Serving) -> None:
    stats = EngineStats(num_running=3, kv_blocks_total=10, kv_blocks_free=4, prefix_query_tokens=20)
    server.service.metrics.stats = lambda: stats
    before = samples(httpx.get(f"{server.url}/metrics").text)
    for stream in (False, True):
        body = {"prompt": "a b", "max_tokens": 5, "stream": stream, "n": 2, "temperature": 1}
        assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
    found = samples(httpx.get(f"{server.url}/metrics").text)
    assert set(found) >= VLLM
    for name in ("aphrodite", "vllm"):
        assert found[f"{name}:generation_tokens_total"] - before[f"{name}:generation_tokens_total"] == 20
        assert found[f"{name}:request_generation_tokens_sum"] == 20
        assert found[f"{name}:request_max_num_generation_tokens_sum"] == 10
        assert found[f"{name}:time_to_first_token_seconds_count"] == 2
        assert found[f"{name}:num_requests_running"] == 3
        assert found[f"{name}:kv_cache_usage_perc"] == pytest.approx(0.6)
        assert found[f"{name}:prefix_cache_queries_total"] == 20
    assert found["vllm:gpu_prefix_cache_queries_total"] == 20
    assert found["aphrodite:kv_blocks_leaked"] == 0


@pytest.mark.parametrize(
    ("health", "alive", "ready"),
    [
        (Health.LOADING, 200, 503),
        (Health.STALLED, 503, 503),
        (Health.RESTARTING, 503, 503),
        (Health.FAILED, 503, 503),
    ],
)
def test_health_and_readiness_are_told_apart(folder: Path, health: Health, alive: int, ready: int) -> None:
    with serving(folder, host=FixedHost(None, health)) as server:
        assert httpx.get(f"{server.url}/health").status_code == alive
        answer = httpx.get(f"{server.url}/ready")
        assert answer.status_code == ready and answer.json()["status"] == health.value
        refused = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"})
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert httpx.get(f"{server.url}/v1/models").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/messages", "/api/v1/generate"])
def test_a_stalled_engine_gets_nothing_new_and_keeps_what_it_has(folder: Path, path: str, stream: bool) -> None:
    engine = ScriptedEngine(lambda request: [*request.prompt_token_ids[:1], 0.4, "stop"])
    host = Swinging(Model(engine, Frontend.of(card(folder))))
    asked = {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "max_tokens": 5, "stream": stream}
    with serving(folder, engine, host=host) as server, ThreadPoolExecutor() as pool:
        begun = pool.submit(httpx.post, f"{server.url}/v1/completions", json={"prompt": "a"})
        until(lambda: engine.added)
        host.health = Health.STALLED
        refused = httpx.post(server.url + path, json=asked)
        assert refused.status_code in (503, 529) and refused.headers["retry-after"] == "10"
        assert "steps have stopped" in refused.text and len(engine.added) == 1
        assert begun.result().status_code == 200, "it was not given up"
        assert httpx.get(f"{server.url}/v1/models").status_code == 200
        host.health = Health.READY
        assert httpx.post(server.url + path, json=asked).status_code == 200
        assert server.service.admission.num_taken == 0


@dataclass
class Swinging:
    """A host whose engine stalls and goes on."""

    model: Model | None
    health: Health = Health.READY
    last_failure: None = None
    num_restarts: int = 0


def test_the_document_describes_every_route_and_every_parameter(server: Serving) -> None:
    found = httpx.get(f"{server.url}/openapi.json").json()
    assert found == json.loads(json.dumps(document({id(one): one for _, one in server.site.routes}.values())))  # type: ignore[arg-type]
    properties = found["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {item.name for item in parameters()} <= set(properties["properties"])
    operations = [operation for path in found["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"] and "200" in operation["responses"]
        for where, content in _contents(operation):
            assert _is_typed(content["schema"]), (operation["operationId"], where)


def _contents(operation: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for status, answer in operation["responses"].items():
        yield from ((f"{status} {kind}", content) for kind, content in answer.get("content", {}).items())
    yield from operation.get("requestBody", {}).get("content", {}).items()


def _is_typed(schema: Mapping[str, Any]) -> bool:
    if "anyOf" in schema:
        return all(map(_is_typed, schema["anyOf"]))
    return schema.get("type") not in (None, "object") or bool(schema.get("properties"))


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines_are_lines_whatever_they_hold(server: Serving, form: str) -> None:
    stream = io.StringIO()
    logger = logging.getLogger("aphrodite")
    before = (list(logger.handlers), logger.level, logger.propagate)
    try:
        logs.set_up(form, "info", stream)
        httpx.get(server.url + "/%0d%0aFAKE%1b[31m" + "x" * 3000)
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "my secret words", "temperature": -1})
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "my secret words", "max_tokens": 1})
        until(lambda: stream.getvalue().count("\n") >= 3)  # a request is logged once it is answered
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    text = stream.getvalue()
    lines = text.splitlines()
    assert len(lines) == 3 and all(len(line) < 600 for line in lines)
    assert "\x1b" not in text and "secret" not in text and not any(line.startswith("FAKE") for line in lines)
    if form == "json":
        assert all(json.loads(line)["request_id"] for line in lines)


def test_a_fault_of_ours_is_logged_once_and_told_without_its_text(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine(lambda request: [ZeroDivisionError("inner words")])
    with serving(folder, engine) as server, caplog.at_level(logging.INFO, "aphrodite"):
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"})
    assert answer.status_code == 500 and "inner words" not in answer.text and "ZeroDivisionError" in answer.text
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_prefix_that_a_proxy_leaves_is_taken_off(folder: Path) -> None:
    with serving(folder, app={"root_path": "/llm"}) as server:
        assert httpx.get(f"{server.url}/llm/v1/models").status_code == 200
        assert httpx.get(f"{server.url}/v1/models").status_code == 200
        assert httpx.get(f"{server.url}/llmv1/models").status_code == 404
