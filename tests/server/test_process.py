"""The server as it is started: its clients, its engine's death, its own end."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from aphrodite import LLM, SamplingParams
from tests.server.process import Running, is_alive, running
from tests.support.waiting import until

FLAGS = ("--device", "cpu", "--num-blocks", "400", "--served-model-name", "tiny,other")


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(model, tmp_path_factory.mktemp("log") / "log", *FLAGS) as found:
        yield found


@pytest.fixture(scope="module")
def truth(model: Path) -> Iterator[LLM]:
    with LLM(str(model), device="cpu", num_blocks=400) as llm:
        yield llm


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as found:
        yield found


def test_the_official_client_gets_what_the_library_gives(client: openai.OpenAI, truth: LLM) -> None:
    prompts = ["The engine schedules", "another"]
    expected = truth.generate(prompts, SamplingParams(temperature=0.9, seed=3, max_tokens=12, n=2, logprobs=2))
    found = client.completions.create(
        model="tiny", prompt=prompts, temperature=0.9, seed=3, max_tokens=12, n=2, logprobs=2
    )
    flat = [one for output in expected for one in output.outputs]
    assert [one.text for one in found.choices] == [one.text for one in flat]
    for choice, one in zip(found.choices, flat, strict=True):
        assert choice.finish_reason == one.finish_reason
        assert choice.logprobs is not None and one.logprobs is not None
        chosen = [next(iter(position.values())).logprob for position in one.logprobs]
        assert choice.logprobs.token_logprobs == pytest.approx(chosen, abs=1e-4)
    assert found.usage is not None
    assert found.usage.prompt_tokens == sum(len(output.prompt_token_ids) for output in expected)
    assert found.usage.completion_tokens == sum(len(one.token_ids) for one in flat)


def test_a_streamed_chat_is_what_the_library_answers(client: openai.OpenAI, truth: LLM) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße?"}]
    (expected,) = truth.chat(messages, SamplingParams(temperature=0, max_tokens=20, stop=["e"]))
    stream = client.chat.completions.create(
        model="other", messages=messages, temperature=0, max_tokens=20, stop="e", stream=True,  # type: ignore[arg-type]
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected.outputs[0].text
    assert chunks[-2].choices[0].finish_reason == expected.outputs[0].finish_reason
    assert chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == len(expected.prompt_token_ids)


@pytest.mark.parametrize("count", [5, 64, 65, 66, 200])  # 64: logits of a prompt come in chunks
def test_echo_brings_the_log_probabilities_of_the_prompt(client: openai.OpenAI, truth: LLM, count: int) -> None:
    ids = [5 + 37 * place % 300 for place in range(count)]
    (expected,) = truth.generate([ids], SamplingParams(temperature=0, max_tokens=1, logprobs=1, prompt_logprobs=1))
    found = client.completions.create(model="tiny", prompt=ids, temperature=0, max_tokens=1, logprobs=1, echo=True)
    logprobs = found.choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None and logprobs.text_offset is not None
    assert logprobs.token_logprobs[0] is None and len(logprobs.token_logprobs) == len(ids) + 1
    positions = [*(expected.prompt_logprobs or ()), *(expected.outputs[0].logprobs or ())]
    wanted = [next(iter(position.values())).logprob for position in positions if position is not None]
    assert logprobs.token_logprobs[1:] == pytest.approx(wanted, abs=1e-4)
    assert logprobs.text_offset == sorted(logprobs.text_offset)


def test_long_echoes_take_memory_in_bounds_and_give_it_back(server: Running) -> None:
    asked = {"prompt": [[5] * 500] * 12, "max_tokens": 1, "temperature": 0, "logprobs": 20, "echo": True}
    answers: list[httpx.Response] = []

    def read() -> None:
        answers.append(httpx.post(f"{server.url}/v1/completions", json=asked, timeout=60))

    rests: list[int] = []
    for _ in range(3):
        thread = threading.Thread(target=read)
        thread.start()
        slowest = 0.0
        while thread.is_alive():
            began = processor_s(server.popen.pid)  # who holds others up here computes
            assert httpx.get(f"{server.url}/health").status_code == 200
            slowest = max(slowest, processor_s(server.popen.pid) - began)
        assert slowest < 1, "others are held up"
        rests.append(sum(resident_bytes(pid) for pid in (server.popen.pid, server.engine_pid)))
    positions = [answer.json()["choices"][11]["logprobs"]["top_logprobs"] for answer in answers]
    assert all(len(found) == 501 and len(found[500]) > 10 for found in positions)
    assert rests[-1] - rests[0] < 32 << 20, "it is not given back"
    asked["prompt"] = [[5] * 500] * 25  # of 21 log-probabilities each: more than 2**18
    read()
    assert answers[-1].status_code == 400 and answers[-1].json()["error"]["param"] == "logprobs"


def processor_s(pid: int) -> float:
    """Processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_errors_are_those_that_the_official_client_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model="tiny", prompt="a", temperature=-1)
    assert raised.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nothing", prompt="a")
    assert [one.id for one in client.models.list()] == ["tiny", "other"]
    assert client.models.retrieve("other").id == "other"


def test_a_client_that_leaves_gives_its_blocks_back(server: Running) -> None:
    asked = {"prompt": ["a b c"] * 8, "max_tokens": 400, "n": 2, "temperature": 1, "ignore_eos": True, "stream": True}
    for _ in range(3):
        with httpx.stream("POST", f"{server.url}/v1/completions", json=asked) as answer:
            next(answer.iter_bytes())
    until(lambda: not gauges(server)["num_requests_in_flight"])
    until(lambda: gauges(server)["kv_blocks_free"] == 400)
    found = gauges(server)
    assert found["kv_blocks_free"] == found["kv_blocks_total"] == 400 and found["kv_blocks_leaked"] == 0
    assert found["num_requests_running"] == found["num_requests_waiting"] == 0


def gauges(server: Running) -> dict[str, float]:
    """aphrodite:* by name."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    pairs = [line.split(" ") for line in lines if line.startswith("aphrodite:")]
    return {name.partition("{")[0].removeprefix("aphrodite:"): float(value) for name, value in pairs}


@pytest.mark.slow
def test_the_death_of_the_engine_is_an_error_at_once_and_soon_over(
    server: Running, client: openai.OpenAI, truth: LLM
) -> None:
    # more than fits between the engine and a client that does not read: no answer ends before the engine does
    asked = {"prompt": "a b c", "n": 4, "max_tokens": 480, "temperature": 1, "ignore_eos": True, "stream": True}
    asked["logprobs"] = 20
    (expected,) = truth.generate(["The engine"], SamplingParams(temperature=0, max_tokens=8))
    took: list[float] = []
    for round_ in range(3):
        ends: list[tuple[float, str]] = []
        begun, dead = threading.Barrier(9), threading.Event()

        def read() -> None:
            text = ""
            with httpx.stream("POST", f"{server.url}/v1/completions", json=asked) as answer:
                for place, part in enumerate(answer.iter_text()):
                    if place == 0:
                        begun.wait(60)  # noqa: B023
                        dead.wait(60)  # noqa: B023
                    text += part
            ends.append((time.monotonic(), text))  # noqa: B023

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        begun.wait(60)
        killed = time.monotonic()
        os.kill(server.engine_pid, signal.SIGKILL)
        dead.set()
        for thread in threads:
            thread.join(60)
        assert len(ends) == 8
        took.append(max(at for at, _ in ends) - killed)
        for _, text in ends:
            *_, last, done = [line for line in text.split("\n\n") if line]
            error = json.loads(last.removeprefix("data: "))["error"]
            assert done == "data: [DONE]" and error["code"] == "engine_died" and "SIGKILL" in error["message"]
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"})
        if answer.status_code != 200:
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_restarting"
            assert answer.headers["retry-after"]
        server.ready()
        again = client.completions.create(model="tiny", prompt="The engine", temperature=0, max_tokens=8)
        assert again.choices[0].text == expected.outputs[0].text
        assert httpx.get(f"{server.url}/health").json()["restarts"] == round_ + 1
    assert min(took) < 1, "the best round: a machine that stands still spoils one of them"


@pytest.mark.slow
def test_a_hung_engine_is_seen_and_its_return_too(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path / "log", *FLAGS, "--engine-stall", "7") as server:
        pid = server.engine_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: httpx.get(f"{server.url}/ready").status_code != 200)
            assert httpx.get(f"{server.url}/ready").json()["status"] == "stalled"
            assert httpx.get(f"{server.url}/health").status_code == 503
            refused = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"})
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "engine_stalled"
            assert refused.headers["retry-after"]
        finally:
            os.kill(pid, signal.SIGCONT)
        server.ready()
        assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"}).status_code == 200


@pytest.mark.slow
def test_sigterm_lets_what_has_begun_end_and_exits_0(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path / "log", *FLAGS, "--max-num-seqs", "2") as server:
        pid = server.engine_pid
        texts: list[str] = []
        begun = threading.Semaphore(0)

        def read() -> None:
            asked = {"prompt": "a b c", "max_tokens": 480, "temperature": 1, "ignore_eos": True, "stream": True}
            with httpx.stream("POST", f"{server.url}/v1/completions", json=asked) as answer:
                parts = answer.iter_text()
                text = next(parts)
                begun.release()
                texts.append(text + "".join(parts))

        # so many that most of them wait still, two at a time, if this process stands still for some seconds
        threads = [threading.Thread(target=read) for _ in range(30)]
        for thread in threads:
            thread.start()
        begun.acquire()
        until(lambda: gauges(server)["num_requests_in_flight"] + len(texts) >= 30)
        server.popen.send_signal(signal.SIGTERM)
        until(server.refuses)
        assert server.popen.wait(60) == 0
        for thread in threads:
            thread.join(60)
        ended = [text for text in texts if '"finish_reason":"length"' in text]
        drained = [text for text in texts if '"draining"' in text]
        assert len(texts) == 30 and len(ended) + len(drained) == 30 and ended and drained
        for text in texts:  # no frame is cut
            frames = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
            assert all(frame == "[DONE]" or json.loads(frame) for frame in frames) or json.loads(text)
        assert not is_alive(pid)


def test_sigterm_lets_all_of_a_request_end_of_which_something_has_begun(model: Path, tmp_path: Path) -> None:
    """Of several continuations those that wait would take the others' tokens with them."""
    with running(model, tmp_path / "log", *FLAGS, "--max-num-seqs", "1") as server:
        asked = {"prompt": "a b c", "max_tokens": 100, "n": 3, "temperature": 1, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=asked) as answer:
            parts = answer.iter_text()
            text = next(parts)
            server.popen.send_signal(signal.SIGTERM)
            text += "".join(parts)
        assert server.popen.wait(60) == 0
        assert text.count('"finish_reason":"length"') == 3 and "draining" not in text, text[-500:]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda how: how.name)
def test_the_engine_ends_with_the_server(model: Path, tmp_path: Path, how: signal.Signals) -> None:
    """One that is stopped as well, which hears of nothing."""
    with running(model, tmp_path / "log", *FLAGS, before=os.setpgrp) as server:
        pid = server.engine_pid
        if how is not signal.SIGHUP:
            os.kill(pid, signal.SIGSTOP)
            server.popen.send_signal(how)
        else:
            os.kill(pid, how)  # it is the server's, which ends both
            assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"}).status_code == 200
            os.killpg(server.popen.pid, how)
        until(lambda: not is_alive(pid))
        assert server.popen.wait(30) == (-9 if how is signal.SIGKILL else 0)


def test_who_ends_a_server_that_is_not_there_yet_has_ended_it(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path / "log", *FLAGS, wait=False) as server:
        children = Path(f"/proc/{server.popen.pid}/task/{server.popen.pid}/children")
        until(children.read_text)
        pid = server.engine_pid
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(30) == 0 and not is_alive(pid)
        assert "Traceback" not in server.log.read_text()


def test_an_engine_comes_again_though_clients_hold_all_files_and_nobody_reads_the_log(
    model: Path, tmp_path: Path
) -> None:
    def poor() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        for number in range(3):
            os.close(number)

    with (
        running(model, tmp_path / "log", *FLAGS, before=poor) as server,
        httpx.Client(base_url=server.url) as client,
        contextlib.ExitStack() as stack,
    ):
        assert client.get("/health").json() == {"status": "ready", "restarts": 0}
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        until(lambda: len(os.listdir(f"/proc/{server.popen.pid}/fd")) == 64)
        os.kill(server.engine_pid, signal.SIGKILL)
        until(lambda: client.get("/health").json().get("restarts") == 1, 60)
        until(lambda: client.get("/ready").status_code == 200, 60)
        assert client.post("/v1/completions", json={"prompt": "a"}, timeout=20).status_code == 200


def test_while_the_model_loads_the_server_says_so(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path / "log", *FLAGS, wait=False) as server:
        until(server.answers)
        answers = {
            "/health": httpx.get(f"{server.url}/health"),
            "/ready": httpx.get(f"{server.url}/ready"),
            "/v1/models": httpx.get(f"{server.url}/v1/models"),
            "/v1/completions": httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"}),
        }
        if httpx.get(f"{server.url}/ready").status_code == 503:  # else it was faster than we are
            assert [answer.status_code for answer in answers.values()] == [200, 503, 200, 503]
            error = answers["/v1/completions"].json()["error"]
            assert error["code"] == "model_loading" and answers["/v1/completions"].headers["retry-after"]
        assert [one["id"] for one in answers["/v1/models"].json()["data"]] == ["tiny", "other"]
        server.ready()


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--host", "0.0.0.0"), 2, "--insecure"),
        (("--ssl-keyfile", "x"), 2, "ssl_certfile"),
        (("--ssl-keyfile", "/nowhere", "--ssl-certfile", "/nowhere"), 2, "ssl_certfile"),
        (("--tensor-parallel-size", "2"), 2, "tensor_parallel_size must be 1"),
        (("--gpu-memory-utilization", "1.5"), 2, "memory_utilization"),
        (("--gpu-memory-utilization", "0.000001"), 3, "memory_utilization"),
        (("--api-keys", "@/nowhere"), 2, "api_keys"),
        (("--max-model-len", "100000"), 2, "max_model_len"),
        (("--num-blocks", "4", "--max-model-len", "512"), 3, "max_model_len"),
    ],
    ids=repr,
)
def test_a_start_that_cannot_be_ends_with_one_line(
    model: Path, tmp_path: Path, flags: tuple[str, ...], code: int, said: str
) -> None:
    with running(model, tmp_path / "log", *flags, wait=False) as server:
        assert server.popen.wait(60) == code
        text = server.log.read_text()
        assert said in text and "Traceback" not in text


def test_a_folder_whose_name_is_no_text_is_refused_in_one_line(model: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/model\xff"))
    folder.symlink_to(model)
    with running(folder, tmp_path / "log", *FLAGS, wait=False) as server:
        assert server.popen.wait(60) == 2
        (line,) = server.log.read_text().splitlines()
    assert line.startswith("aphrodite: error: model must be text in UTF-8, got ") and "model\\udcff" in line


def test_unix_sockets_are_for_their_owner_and_the_administrator_has_one(model: Path, tmp_path: Path) -> None:
    path, admin = tmp_path / "socket", tmp_path / "admin"
    flags = ("--uds", str(path), "--admin-uds", str(admin), "--admin-key", "sk-admin", "--single-user-mode")
    with running(model, tmp_path / "log", *FLAGS[:2], *flags, wait=False) as server:

        def listens() -> bool:
            with socket.socket(socket.AF_UNIX) as sock:
                return sock.connect_ex(str(path)) == 0

        until(listens, 60)
        with (
            httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://a") as client,
            httpx.Client(transport=httpx.HTTPTransport(uds=str(admin)), base_url="http://a") as ours,
        ):
            until(lambda: client.get("/ready").status_code == 200, 60)
            assert path.stat().st_mode & 0o077 == admin.stat().st_mode & 0o077 == 0
            asked = {"prompt": "a b c " * 20, "max_tokens": 1}
            for cached in (False, True):
                usage = client.post("/v1/completions", json=asked).json()["usage"]
                assert (usage["prompt_tokens_details"]["cached_tokens"] > 0) is cached
            assert client.post("/reset_prefix_cache").status_code == 401
            assert client.post("/reset_prefix_cache", headers={"x-api-key": "sk-admin"}).status_code == 200
            usage = client.post("/v1/completions", json=asked).json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == 0
            assert ours.post("/pause").status_code == 200
            refused = client.post("/v1/completions", json=asked)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "paused"
            assert ours.post("/resume").status_code == 200
            assert client.post("/v1/completions", json=asked).status_code == 200
            blocks = next(line for line in client.get("/metrics").text.splitlines() if "kv_blocks_total{" in line)
            assert float(blocks.split()[-1]) == 512 / 16, "blocks for one sequence and no more"
        server.popen.send_signal(signal.SIGINT)
        assert server.popen.wait(60) == 0
        assert not path.exists() and not admin.exists()


def test_a_second_signal_does_not_wait(model: Path, tmp_path: Path) -> None:
    flags = (*FLAGS, "--max-num-seqs", "1", "--shutdown-timeout", "600")
    with running(model, tmp_path / "log", *flags) as server:
        asked = {"prompt": ["a b c"] * 80, "max_tokens": 450, "temperature": 1, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=asked) as answer:
            next(parts := answer.iter_text())
            server.popen.send_signal(signal.SIGTERM)
            until(server.refuses)  # or the two would be one
            server.popen.send_signal(signal.SIGTERM)
            text = "".join(parts)
            assert '"draining"' in text and "[DONE]" in text, "it was broken off, long before its end"
            assert server.popen.wait(60) == 0
