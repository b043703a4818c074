"""Flags of `aphrodite run` as users type them, each by what it changes in a server that is started with it."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.server.certificates import self_signed
from tests.server.process import Running, running
from tests.support.waiting import in_time, until

KEY, OTHER, ADMIN = "sk-one", "sk-two", "sk-admin"
COMPLETIONS, CHAT = "/llm/v1/completions", "/llm/v1/chat/completions"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key, and a certificate of it that it has signed itself."""
    return self_signed(tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture(scope="module")
def server(model: Path, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server with nearly every flag."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "keys").write_text(f"# ours\n{KEY}\n{OTHER}\n")
    (folder / "template").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    flags = {
        "--host": "127.0.0.1",
        "--api-keys": f"@{folder / 'keys'}",
        "--admin-key": ADMIN,
        "--served-model-name": "first,second",
        "--max-model-len": "0.4k",
        "--max-num-seqs": "2",
        "--max-queue": "1",
        "--dtype": "float32",
        "--device": "cpu",
        "--gpu-memory-utilization": "0.5",
        "--num-blocks": "100",
        "--request-timeout": "1",
        "--shutdown-timeout": "1",
        "--chat-template": str(folder / "template"),
        "--ssl-keyfile": str(certificate[0]),
        "--ssl-certfile": str(certificate[1]),
        "--root-path": "/llm",
        "--allowed-origins": "https://ok,https://too",
        "--metrics-compat": "none",
    }
    words = [word for pair in flags.items() for word in pair]
    with running(model, folder / "log", *words, "--no-log-requests", "--strict-params", wait=False) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running, certificate: tuple[Path, Path]) -> Iterator[httpx.Client]:
    """A client that trusts the certificate and nothing else, and has a key."""
    trusted = ssl.create_default_context(cafile=str(certificate[1]))
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"https://localhost:{server.port}", verify=trusted, headers=headers) as found:

        def is_ready() -> bool:
            try:
                return found.get("/ready").status_code == 200
            except httpx.TransportError:
                assert server.popen.poll() is None, server.log.read_text()
                return False

        until(is_ready, 60)
        yield found


def test_https_is_for_who_trusts_the_certificate(client: httpx.Client, server: Running) -> None:
    assert client.get("/llm/v1/models").status_code == 200
    with pytest.raises(httpx.ConnectError, match=r"self-signed|CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://localhost:{server.port}/health", verify=ssl.create_default_context())
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://localhost:{server.port}/health")
    assert f"https://127.0.0.1:{server.port}" in server.log.read_text()
    asked = {"prompt": "a b", "max_tokens": 4, "stream": True}
    with client.stream("POST", COMPLETIONS, json=asked) as answer:
        assert "".join(answer.iter_text()).endswith("data: [DONE]\n\n")


def test_one_connection_serves_many_requests_over_tls(client: httpx.Client, certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=str(certificate[1]))
    connection = http.client.HTTPSConnection("localhost", client.base_url.port, context=context, timeout=10)
    sockets = set()
    for _ in range(3):
        connection.request("GET", "/v1/models", headers={"x-api-key": OTHER})
        answer = connection.getresponse()
        assert answer.status == 200 and len(json.loads(answer.read())["data"]) == 2
        assert isinstance(connection.sock, ssl.SSLSocket) and connection.sock.version() in ("TLSv1.2", "TLSv1.3")
        sockets.add(connection.sock)
    assert len(sockets) == 1
    connection.close()


def test_a_prefix_is_taken_off_and_keys_are_asked_for_with_it_too(client: httpx.Client) -> None:
    for path in ("/llm/v1/models", "/v1/models"):
        assert client.get(path).status_code == 200
        assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/llm/llm/v1/models").status_code == 404
    assert client.get("/other/v1/models").status_code == 404
    assert client.get("/llm/health", headers={"authorization": ""}).status_code == 200


def test_keys_of_a_file_and_of_the_administrator(client: httpx.Client) -> None:
    assert client.get("/v1/models", headers={"authorization": f"Bearer {OTHER}"}).status_code == 200
    assert client.post("/reset_prefix_cache").status_code == 401
    assert client.post("/reset_prefix_cache", headers={"authorization": f"Bearer {ADMIN}"}).status_code == 200


def test_device_and_type(client: httpx.Client, server: Running) -> None:
    log = server.log.read_text()
    assert "dtype: f32: asked for" in log and "device: cpu: asked for" in log


def test_names_and_length(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()["data"]
    assert [one["id"] for one in models] == ["first", "second"]
    assert client.post("/tokenize", json={"prompt": "a", "model": "second"}).json()["max_model_len"] == 400
    assert client.post(COMPLETIONS, json={"prompt": "a", "model": "model"}).status_code == 404
    refused = client.post(COMPLETIONS, json={"prompt": [5] * 401})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"


def test_no_more_sequences_than_run_and_wait(client: httpx.Client, server: Running) -> None:
    # it has a second, in which a machine may stand still
    fits = in_time(lambda: client.post(COMPLETIONS, json={"prompt": "a", "n": 3, "max_tokens": 1}), 1)
    assert fits.status_code == 200 and len(fits.json()["choices"]) == 3
    assert client.post(COMPLETIONS, json={"prompt": "a", "n": 4}).status_code == 400, "it could never be taken on"
    long = {"prompt": "a", "max_tokens": 390, "ignore_eos": True, "temperature": 1}
    with ThreadPoolExecutor(16) as threads, server.engine_stopped():
        answers = list(threads.map(lambda _: client.post(COMPLETIONS, json=long), range(16)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and {answer.status_code for answer in answers} == {429, 504}
    assert {answer.json()["error"]["code"] for answer in refused} == {"queue_full"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


def test_a_request_has_a_second(client: httpx.Client, server: Running) -> None:
    with server.engine_stopped():
        answer = in_time(lambda: client.post(COMPLETIONS, json={"prompt": "a"}), 2)
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline_exceeded"


def test_the_chat_template_of_the_flag_is_the_one(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "the engine"}]
    chat = client.post("/tokenize", json={"messages": messages}).json()
    assert (
        chat["tokens"]
        == client.post("/tokenize", json={"prompt": "the engine", "add_special_tokens": False}).json()["tokens"]
    )


def test_origins(client: httpx.Client) -> None:
    preflight = {"access-control-request-method": "POST"}
    for origin, status in (("https://ok", 204), ("https://too", 204), ("https://no", 401)):
        answer = client.options(CHAT, headers={"origin": origin, "authorization": "", **preflight})
        assert answer.status_code == status
        assert answer.headers.get("access-control-allow-origin") == (origin if status == 204 else None)


def test_strict_parameters_metrics_and_silence(client: httpx.Client, server: Running) -> None:
    refused = client.post(COMPLETIONS, json={"prompt": "a", "top_a": 0.2})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "top_a"
    assert "vllm:" not in client.get("/metrics").text
    assert "/v1/models" not in server.log.read_text(), "--no-log-requests"


def test_the_other_way_of_each_switch(model: Path, tmp_path: Path) -> None:
    flags = ("--host", "0.0.0.0", "--insecure", "--shutdown-timeout", "0", "--max-model-len", "auto")
    with running(model, tmp_path / "log", *flags, "--device", "cpu", "--log-format", "json") as server:
        assert httpx.post(f"{server.url}/tokenize", json={"prompt": "a"}).json()["max_model_len"] == 512
        assert "vllm:num_requests_running" in httpx.get(f"{server.url}/metrics").text
        # more than fits between the engine and a client that does not read: it does not end before it is told to
        asked = {"prompt": "a", "max_tokens": 480, "ignore_eos": True, "stream": True, "n": 8, "temperature": 1}
        asked["logprobs"] = 20
        with httpx.stream("POST", f"{server.url}/v1/completions", json=asked) as answer:
            parts = answer.iter_text()
            text = next(parts)
            server.popen.send_signal(signal.SIGTERM)
            text += "".join(parts)
        assert '"draining"' in text and text.endswith("data: [DONE]\n\n")
        assert server.popen.wait(20) == 0, "not the half minute that there is without the flag"
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert any(line.get("request_id") for line in lines), "requests are logged"


def test_api_key_is_another_name_of_api_keys(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path / "log", "--api-key", f"{KEY},{OTHER}", "--device", "cpu", wait=False) as server:
        until(server.answers)
        for key, status in ((KEY, 200), (OTHER, 200), (f"{KEY},{OTHER}", 401), ("", 401)):
            answer = httpx.get(f"{server.url}/v1/models", headers={"x-api-key": key} if key else {})
            assert answer.status_code == status
