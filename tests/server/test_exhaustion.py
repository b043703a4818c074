"""Memory that runs out: in a step it costs the longest request at most, at start one line, in the server one answer."""

from __future__ import annotations

import errno
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from aphrodite import LLM
from aphrodite.blueprint import make_platform
from aphrodite.errors import CapacityError, DeviceError
from aphrodite.types.step import SchedulerOutput
from tests.server.process import running
from tests.server.real import Failing, Real, real
from tests.support.checkpoints import Checkpoints
from tests.support.devices import DEVICES, require

LONG = 60  # tokens of the longest prompt
ASKED: list[dict[str, Any]] = [
    {"prompt": list(range(5, 20)), "max_tokens": 6, "temperature": 0},
    {"prompt": list(range(30, 30 + LONG)), "max_tokens": 8, "temperature": 1, "seed": 3},
    {"prompt": [9, 8, 7], "max_tokens": 9, "temperature": 1, "seed": 4, "logprobs": 2, "n": 2},
    {"prompt": list(range(5, 40)), "max_tokens": 5, "temperature": 0.7, "seed": 5, "repetition_penalty": 1.2},
]


def on_the_host() -> BaseException:
    """What torch itself says."""
    try:
        torch.empty(1 << 50, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("there is a PiB")


def behind() -> BaseException:
    """As a device tells that runs behind."""
    error = DeviceError("linear failed on toy: MemoryError", subject="toy")
    error.__cause__ = MemoryError("linear")
    return error


ERRORS: dict[str, Callable[[], BaseException]] = {
    "torch's": lambda: torch.OutOfMemoryError("tried to allocate 2 GiB at 0x7f00deadbeef"),
    "torch's of the host": on_the_host,
    "Python's": lambda: MemoryError(),
    "the system's": lambda: OSError(errno.ENOMEM, "Cannot allocate memory"),
    "the contract's": lambda: CapacityError("the device is full", subject="device"),
    "a late one": behind,
}


@pytest.fixture(scope="module")
def model(checkpoints: Checkpoints) -> Path:
    return checkpoints.llama(seed=31, num_hidden_layers=1)


@dataclass
class Served:
    """A server whose steps the test may make fail, and what each of ASKED gets alone there."""

    real: Real
    runner: Failing
    alone: list[Any] = field(default_factory=list)

    def fail(self, fails: Callable[[SchedulerOutput], BaseException | None], is_late: bool = False) -> None:
        self.runner.fails, self.runner.is_late, self.runner.num_failures = fails, is_late, 0


@pytest.fixture(scope="module", params=["cpu", "cpu without a prefix cache", "toy"])
def served_once(request: pytest.FixtureRequest, model: Path) -> Iterator[Served]:
    device, _, without = request.param.partition(" ")
    made: list[Failing] = []

    def wrap(inner: Any) -> Failing:
        made.append(Failing(inner, _never))
        return made[0]

    settings = {"max_num_batched_tokens": 48, "enable_prefix_caching": not without}
    with real(model, require(device), 1600, wrap=wrap, **settings) as found:
        served = Served(found, made[0])
        served.alone = [choices(ask(found, **body)) for body in ASKED]
        yield served


@pytest.fixture
def served(served_once: Served) -> Iterator[Served]:
    yield served_once
    served_once.fail(_never)
    served_once.real.check_idle()
    assert choices(ask(served_once.real, **ASKED[0])) == served_once.alone[0], "the canary"


def _never(plan: SchedulerOutput) -> None:
    return None


def ask(found: Real, **asked: Any) -> httpx.Response:
    return httpx.post(f"{found.server.url}/v1/completions", json={"ignore_eos": True, **asked}, timeout=60)


def choices(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return [{**choice, "logprobs": _rounded(choice["logprobs"])} for choice in answer.json()["choices"]]


def _rounded(logprobs: Any) -> Any:
    """Numbers that another batch rounds differently."""
    return logprobs and [round(value, 3) for value in logprobs["token_logprobs"]]


def together(found: Real, asked: list[dict[str, Any]]) -> list[httpx.Response]:
    """All at once."""
    return found.together([partial(ask, found, **body) for body in asked])


def check_error(answer: httpx.Response) -> None:
    """503 as section "Errors" of docs/serving.md has it, without inner words."""
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert error["type"] == "service_unavailable" and error["code"] == "out_of_memory"
    assert int(answer.headers["retry-after"]) >= 1 and "x-should-retry" not in answer.headers
    assert "0x" not in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize(("kind", "is_late"), [*((kind, False) for kind in ERRORS), ("a late one", True)])
def test_memory_that_runs_out_once_costs_a_smaller_step_and_nobody_an_answer(
    served: Served, kind: str, is_late: bool
) -> None:
    sizes: list[int] = []

    def fails(plan: SchedulerOutput) -> BaseException | None:
        sizes.append(int(plan.num_new.sum()))
        return ERRORS[kind]() if len(sizes) == 3 else None

    served.fail(fails, is_late)
    assert [choices(answer) for answer in together(served.real, ASKED)] == served.alone
    assert served.runner.num_failures == 1
    # what was submitted before the failure was known is as large as it is
    assert any(size <= max(1, sizes[2] // 2) for size in sizes[3:5])


@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "late"])
def test_a_request_that_does_not_fit_fails_alone(served: Served, is_late: bool) -> None:
    served.fail(lambda plan: ERRORS["torch's"]() if plan.max_k > LONG else None, is_late)
    first, too_long, *others = together(served.real, ASKED)
    check_error(too_long)
    assert 'out_of_memory_errors_total{model_name="tiny"}' in httpx.get(f"{served.real.server.url}/metrics").text
    assert [choices(answer) for answer in (first, *others)] == [served.alone[0], *served.alone[2:]]
    assert 2 <= served.runner.num_failures <= 4, "it is not tried for ever"


def test_in_the_middle_of_a_stream_it_is_the_last_frame(served: Served) -> None:
    served.fail(lambda plan: MemoryError() if plan.max_k > 20 else None)
    text = ask(served.real, prompt=[5, 6, 7], max_tokens=40, stream=True, temperature=0).text
    *parts, error, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert done == "[DONE]" and json.loads(error)["error"]["code"] == "out_of_memory"
    assert len(parts) >= 2
    assert all(choice["finish_reason"] is None for part in parts for choice in json.loads(part)["choices"])


def test_memory_that_is_gone_for_good_ends_all_and_not_the_engine(served: Served) -> None:
    served.fail(lambda plan: ERRORS["torch's"]())
    for answer in together(served.real, ASKED):
        check_error(answer)
    assert served.runner.num_failures <= 2 * 5, "two for each sequence"
    served.fail(_never)
    assert [choices(answer) for answer in together(served.real, ASKED)] == served.alone


# ---- at start -------------------------------------------------------------------------------------------------------


class FullMemory:
    """Memory that refuses the n-th thing that is taken."""

    def __init__(self, inner: Any, refused: int) -> None:
        self._inner, self._refused = inner, refused
        self.num_taken = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._counted(found) if name in ("empty", "zeros", "arena", "allocate_kv", "host") else found

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.num_taken += 1
            if self.num_taken == self._refused:
                raise torch.OutOfMemoryError("Tried to allocate\n 2.00 GiB")
            return function(*args, **kwargs)

        return call


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_that_refuses_memory_at_start_is_an_error_with_advice(
    model: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[FullMemory] = []
    refused = [0]  # nothing, the first time

    def platform(entry: Any) -> Any:
        found = make_platform(entry)
        made.append(FullMemory(found.memory, refused[0]))
        return replace(found, memory=made[-1])

    monkeypatch.setattr("aphrodite.blueprint.make_platform", platform)
    settings = {"device": require(device), "dtype": "float32", "num_blocks": 32, "max_num_seqs": 4}
    LLM(str(model), **settings).close()
    count = made[0].num_taken
    assert count > 10
    for number in range(1, count + 1, 1 + count // 12):
        refused[0] = number
        with pytest.raises(CapacityError) as caught:
            LLM(str(model), **settings)
        said = str(caught.value)
        assert caught.value.exit_code == 3 and "\n" not in said and "Tried to allocate 2.00 GiB" in said
        for word in (device, "weights", "KV cache", "were free", "num_blocks", "max_model_len", "max_num_seqs"):
            assert word in said
    refused[0] = 0
    LLM(str(model), **settings).close()


# ---- in the server's own process ------------------------------------------------------------------------------------


def test_a_server_without_memory_refuses_what_needs_it_and_lives(model: Path, tmp_path: Path) -> None:
    flags = ("--device", "cpu", "--num-blocks", "100", "--max-body-bytes", str(64 << 20))
    with running(model, tmp_path / "log", *flags) as server:

        def canary() -> Any:
            asked = {"prompt": "the engine", "max_tokens": 6, "temperature": 0}
            answer = httpx.post(f"{server.url}/v1/completions", json=asked)
            assert httpx.get(f"{server.url}/health").status_code == 200
            return answer.json()["choices"]

        body = json.dumps({"prompt": "a", "user": "x" * (24 << 20)}).encode()
        headers = {"content-type": "application/json"}
        expected = canary()
        for spare_mib in (0, 16, 32, 32):
            with limited(server.popen.pid, spare_mib << 20):
                try:
                    check_error(httpx.post(f"{server.url}/v1/completions", content=body, headers=headers, timeout=60))
                except httpx.TransportError:  # the event loop itself had none to take its bytes in
                    assert spare_mib < 32
                assert canary() == expected
        assert httpx.post(f"{server.url}/v1/completions", content=body, headers=headers).status_code == 200
        assert canary() == expected and server.popen.poll() is None


@contextmanager
def limited(pid: int, spare_bytes: int) -> Iterator[None]:
    """Let a process have so much more memory, and no more."""
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (used + spare_bytes, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
