"""The engine's process from the inside: messages, failing parts handed in through `build`, what is told of its end."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aphrodite.config.engine import config_from
from aphrodite.engine.client import Failure, News
from aphrodite.engine.host import Health
from aphrodite.engine.remote import messages
from aphrodite.engine.remote.messages import Add, Drawn, Failed, Pulse, Ready, Update, Updates
from aphrodite.engine.remote.signals import SERVERS_SIGNALS
from aphrodite.engine.remote.spawn import Process
from aphrodite.engine.remote.supervisor import Supervisor, SupervisorSettings
from aphrodite.engine.requests import RequestMaker
from aphrodite.errors import AphroditeError, CapacityError, DeviceError, EngineDied, UsageError
from aphrodite.types.model_card import ModelCard
from aphrodite.types.sampling_params import SamplingParams
from aphrodite.types.stats import EngineStats
from tests.support.checkpoints import Checkpoints

CARD = ModelCard("m", "/m", 320, 512, frozenset({2, 5}), {"temperature": 0.5}, 3)

PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(1, 4),
        "temperature": st.floats(0, 2),
        "top_k": st.integers(-1, 50),
        "top_p": st.floats(0.01, 1),
        "logit_bias": st.dictionaries(st.integers(0, 300), st.floats(-200, 200), max_size=4),
        "allowed_token_ids": st.lists(st.integers(10, 300), min_size=1, max_size=5),
        "stop_token_ids": st.lists(st.integers(0, 9), max_size=5),
        "seed": st.integers(-1, 2**63 - 1),
        "max_tokens": st.integers(9, 100),
        "min_tokens": st.integers(0, 9),
        "logprobs": st.integers(0, 20),
        "prompt_logprobs": st.integers(0, 20),
        "ignore_eos": st.booleans(),
    },
)


@settings(deadline=None)
@given(params=PARAMS, prompt=st.lists(st.integers(0, 319), min_size=1, max_size=40), salt=st.none() | st.just("s"))
def test_a_request_is_the_same_on_the_other_side(params: dict[str, Any], prompt: list[int], salt: str | None) -> None:
    maker = RequestMaker(CARD, None)
    (prepared,) = maker.make_all([{"prompt_token_ids": prompt, "cache_salt": salt}], SamplingParams(**params))
    data = messages.packed(Add([messages.wired(request) for request in prepared.requests]))
    assert messages.length_of(data[:4]) == len(data) - 4
    found = messages.to_engine(data[4:])
    assert isinstance(found, Add)
    again = tuple(map(messages.unwired, found.requests))
    assert again == prepared.requests
    assert [request.sampling.given for request in again] == [r.sampling.given for r in prepared.requests]


def test_messages_of_the_engine_are_the_same_on_the_other_side() -> None:
    entry = (5, -0.5, 2, ((7, -0.1), (5, -0.5)))
    for message in (
        Drawn(CARD),
        Ready(CARD, 64, {"device": "cpu"}, ["a note"]),
        Updates([Update("1", [5]), Update("2.1", [], "stop", 7, [entry], [entry], (3, 1, 0.5, None, None, 2.0))]),
        Failed(["1"], messages.error_of(CapacityError("no room", subject="1"))),
        Pulse(EngineStats(num_running=3)),
    ):
        assert messages.from_engine(messages.packed(message)[4:]) == message
    assert {field.name for field in dataclasses.fields(ModelCard)}  # all of it crosses, whatever it comes to hold


def test_an_error_keeps_its_class_and_a_strange_one_is_named() -> None:
    found = messages.exception_of(messages.error_of(CapacityError("no room", subject="kv")))
    assert type(found) is CapacityError and str(found) == "no room" and found.subject == "kv"
    strange = messages.exception_of(messages.error_of(ZeroDivisionError("by zero")))
    assert type(strange) is AphroditeError and "ZeroDivisionError" in str(strange)


def test_what_is_no_message_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        messages.length_of(b"\xff\xff\xff\xff")
    for data in (b"", b"\x80", b"\x81\xa4type\xa4Exec", b"garbage"):
        with pytest.raises(Exception, match=r"."):
            messages.to_engine(data)


# ---- real processes -------------------------------------------------------------------------------------------------

BUILD = """
import os, sys, time
from aphrodite.engine.remote import process
from aphrodite.errors import CapacityError, DeviceError

def build(config, progress, on_drawn):
    {before}
    built = process.assembled(config, progress, on_drawn)
    {after}
    return built

process.main(build, (0.2, 0.2))
"""


@pytest.fixture(scope="module")
def model(checkpoints: Checkpoints) -> Path:
    return checkpoints.llama()


def supervised(
    model: Path,
    check: Callable[[Supervisor], Awaitable[None]],
    *,
    before: str = "pass",
    after: str = "pass",
    stall_s: float = 25.0,
    **settings: Any,
) -> Supervisor:
    """Keep an engine that is built so, and check it while it is kept."""
    config = config_from({"model": str(model), "device": "cpu", "num_blocks": 100, **settings})
    command = (sys.executable, "-c", BUILD.format(before=before, after=after))

    async def run() -> Supervisor:
        supervisor = Supervisor(config, SupervisorSettings(command, stall_s), Process.spawn(config, command))
        keeper = asyncio.ensure_future(supervisor.run())
        try:
            await check(supervisor)
        finally:
            await supervisor.close()
            await asyncio.wait_for(keeper, 20)
        return supervisor

    return asyncio.run(run())


async def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


async def news_of(supervisor: Supervisor, **params: Any) -> list[News]:
    """All that is told of a request."""
    assert supervisor.model is not None
    (prepared,) = supervisor.model.frontend.prepare([[5, 6, 7]], SamplingParams(**params))
    told: list[News] = []
    supervisor.model.client.add(prepared.requests, told.append)
    await until(lambda: any(isinstance(one, Failure) or one[-1].finish_reason is not None for one in told))
    return told


def test_an_engine_answers_from_its_process(model: Path) -> None:
    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.READY)
        told = await news_of(supervisor, max_tokens=5, temperature=0, logprobs=1)
        last = told[-1]
        assert not isinstance(last, Failure)
        assert last[0].num_output == 5 == len(last[0].logprobs) and last[0].times.finished_s is not None
        await until(lambda: supervisor.stats.num_steps >= 5 and supervisor.stats.kv_blocks_free == 100)

    assert supervised(model, check).num_restarts == 0


def test_a_tokenizer_that_cannot_be_read_ends_the_load_of_the_weights(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "tokenizer.json").write_text('{"model": 5')
    long = "import aphrodite.build\n    aphrodite.build.load_weights = lambda *given, **named: time.sleep(600)"

    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.FAILED)

    found = supervised(folder, check, before=long)
    assert found.exit_code == 4 and "tokenizer.json" in str(found.last_failure) and found.num_restarts == 0


def test_a_lost_device_is_named_to_its_requests_and_the_engine_comes_again(model: Path) -> None:
    fails = "def step():\n        raise DeviceError('it fell off its bus', subject='cpu')\n    built.engine.step = step"

    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.READY)
        (told,) = await news_of(supervisor, max_tokens=5)
        assert isinstance(told, Failure) and type(told.error) is DeviceError and "fell off its bus" in str(told.error)
        await until(lambda: supervisor.num_restarts == 1)
        assert "DeviceError: it fell off its bus" in str(supervisor.last_failure)
        await until(lambda: supervisor.health is Health.READY)

    supervised(model, check, after=fails)


def test_an_engine_whose_thread_fails_is_lost_to_its_requests_at_once(model: Path) -> None:
    """It could be asked for ever: its books are lost, and who undoes a failed step fails as well."""
    fails = (
        "def step():\n"
        "        raise ValueError('the first')\n"
        "    def abort(name, reason):\n"
        "        raise KeyError('the second')\n"
        "    built.engine.step, built.engine.abort = step, abort"
    )

    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.READY)
        (told,) = await news_of(supervisor, max_tokens=5)
        assert (
            isinstance(told, Failure) and type(told.error) is EngineDied and "ValueError: the first" in str(told.error)
        )
        await until(lambda: supervisor.num_restarts == 1)
        assert "ValueError: the first" in str(supervisor.last_failure)
        await until(lambda: supervisor.health is Health.READY)

    supervised(model, check, after=fails)


def test_results_that_cannot_be_told_are_the_end_of_an_engine_and_not_of_all_news(model: Path) -> None:
    fails = "process.messages.logprobs_of = lambda entry: 1 / 0"

    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.READY)
        told = await news_of(supervisor, max_tokens=5, logprobs=1)
        assert isinstance(told[-1], Failure) and "ZeroDivisionError" in str(told[-1].error)

    supervised(model, check, after=fails)


def test_steps_that_stop_are_seen_and_long_ones_are_not_taken_for_that(model: Path, tmp_path: Path) -> None:
    """Three that take longer than the limit together, and one that stands until it may go on."""
    stopped, goes_on = tmp_path / "stopped", tmp_path / "goes on"
    slow = (
        "real, count = built.engine._runner.submit, [0]\n"
        "    def submit(plan):\n"
        "        count[0] += 1\n"
        "        time.sleep(1.4 if count[0] <= 3 else 0)\n"
        f"        if count[0] == 4: open({str(stopped)!r}, 'w').close()\n"
        f"        while count[0] == 4 and not os.path.exists({str(goes_on)!r}): time.sleep(0.02)\n"
        "        return real(plan)\n"
        "    built.engine._runner.submit = submit"
    )

    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.READY)
        engine = supervisor.engine
        assert engine is not None
        for _ in range(3):  # idle, and it goes on to say that it lives
            heard_s = engine.last_pulse_s
            await until(lambda heard_s=heard_s: engine.last_pulse_s > heard_s)  # type: ignore[misc]
        asking = asyncio.ensure_future(news_of(supervisor, max_tokens=6, ignore_eos=True))
        await until(lambda: supervisor.health is Health.STALLED or asking.done())
        assert stopped.exists() and not asking.done(), "long steps are not"
        goes_on.touch()
        last = (await asking)[-1]
        assert not isinstance(last, Failure) and last[0].num_output == 6
        await until(lambda: supervisor.health is Health.READY)

    supervised(model, check, after=slow, stall_s=4.0)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("sys.stderr.write('last words\\n'); os._exit(5)", "exit code 5; its last line was: last words"),
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
        ("os._exit(0)", "exit code 0; that is not how it ends by itself"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV: Segmentation fault; File "),
        ("os.abort()", 'SIGABRT: Aborted; File "<string>", line 10 in step; File '),
        ("os.closerange(3, 200); raise OSError", "Bad file descriptor"),
    ],
)
def test_an_end_without_words_is_told_by_its_signal_and_last_line(model: Path, after: str, said: str) -> None:
    dies = f"def step():\n        {after}\n    built.engine.step = step"

    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.READY)
        (told,) = await news_of(supervisor, max_tokens=5)
        assert isinstance(told, Failure) and type(told.error) is EngineDied and said in str(told.error)

    supervised(model, check, after=dies)


def test_an_engine_is_started_again_once_there_is_something_left_for_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn, refused = Process.spawn, [errno.EMFILE, errno.EAGAIN, errno.ENOMEM]

    def scarce(*arguments: Any) -> Process:
        if refused:
            raise OSError(refused[-1], os.strerror(refused.pop()))
        return spawn(*arguments)

    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.READY)
        monkeypatch.setattr(Process, "spawn", scarce)
        os.kill(supervisor._process.popen.pid, signal.SIGKILL)  # type: ignore[union-attr]
        await until(lambda: supervisor.health is Health.RESTARTING)
        await until(lambda: supervisor.health is Health.READY)
        assert not refused and supervisor.num_restarts == 1

    monkeypatch.setattr("aphrodite.engine.remote.supervisor._AGAIN_S", (0.05, 0.1))
    supervised(model, check)


def test_signals_of_the_server_never_reach_its_engine(model: Path) -> None:
    """Not while it imports either: a terminal's Ctrl-C is everybody's."""
    script = f"import os\n{{}}{BUILD.format(before='pass', after='pass')}"
    sent = "".join(f"os.kill(os.getpid(), {int(number)})\n" for number in SERVERS_SIGNALS)
    config = config_from({"model": str(model), "device": "cpu", "num_blocks": 100})
    command = (sys.executable, "-c", script.format(sent))

    async def run() -> None:
        supervisor = Supervisor(config, SupervisorSettings(command), Process.spawn(config, command))
        keeper = asyncio.ensure_future(supervisor.run())
        await until(lambda: supervisor.health in (Health.READY, Health.FAILED))
        assert supervisor.health is Health.READY
        for number in SERVERS_SIGNALS:
            os.kill(supervisor._process.popen.pid, number)  # type: ignore[union-attr]
        assert len(await news_of(supervisor, max_tokens=3)) > 0 and supervisor.num_restarts == 0
        await supervisor.close()
        await asyncio.wait_for(keeper, 20)

    asyncio.run(run())
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(SERVERS_SIGNALS)


@pytest.mark.parametrize(
    ("before", "code", "said"),
    [
        ("raise CapacityError('too large by half', subject='weights')", 3, "CapacityError: too large by half"),
        ("raise ZeroDivisionError('inner')", 1, "ZeroDivisionError"),
        ("os._exit(7)", 7, "exit code 7"),
    ],
)
def test_an_engine_that_cannot_be_built_is_not_tried_again(model: Path, before: str, code: int, said: str) -> None:
    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.FAILED)
        assert said in str(supervisor.last_failure) and supervisor.exit_code == code
        assert supervisor.model is None

    assert supervised(model, check, before=before).num_restarts == 0


class Panic(BaseException):
    """What extensions written in Rust raise when they panic."""


@pytest.mark.parametrize("error", [Panic("in the library"), RecursionError("too deep")], ids=repr)
def test_a_tokenizer_whose_library_fails_is_the_end_of_the_load_and_not_of_the_server(
    error: BaseException, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(card: ModelCard) -> None:
        raise error

    monkeypatch.setattr("aphrodite.engine.remote.supervisor.Frontend.of", fails)

    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.FAILED)

    found = supervised(model, check)
    assert found.exit_code == 1 and f"{type(error).__name__}: {error}" in str(found.last_failure)


def test_an_engine_that_is_silent_while_it_loads_is_told_of_with_its_place(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits for a server that never gets ready has nothing else to go by."""
    monkeypatch.setattr("aphrodite.engine.remote.supervisor._LONG_S", 0.05)
    config = config_from({"model": str(model), "device": "cpu", "num_blocks": 100})
    silent = (sys.executable, "-c", "import time; time.sleep(600)")

    async def run() -> None:
        supervisor = Supervisor(config, SupervisorSettings(silent), Process.spawn(config, silent))
        keeper = asyncio.ensure_future(supervisor.run())
        await until(lambda: "it is at: its plugins, and the files of the model" in caplog.text)
        await supervisor.close()
        await keeper

    asyncio.run(run())


def test_a_process_that_cannot_be_started_is_tried_again_and_then_no_more(model: Path) -> None:
    config = config_from({"model": str(model), "device": "cpu", "num_blocks": 100})

    async def run() -> None:
        first = Process.spawn(config)
        supervisor = Supervisor(config, SupervisorSettings(("/nowhere/python",)), first)
        keeper = asyncio.ensure_future(supervisor.run())
        await until(lambda: supervisor.health is Health.READY)
        first.kill()
        await asyncio.wait_for(keeper, 20)
        assert supervisor.health is Health.FAILED and supervisor.exit_code == 1 and supervisor.num_restarts == 3
        assert "cannot be started: FileNotFoundError" in str(supervisor.last_failure)
        await supervisor.close()

    asyncio.run(run())


def test_a_step_that_fails_costs_its_requests_and_not_the_engine(model: Path) -> None:
    """Twice in a row, that is: after the first the engine starts over."""
    fails = (
        "real, count = built.engine._runner.submit, [0]\n"
        "    def submit(plan):\n"
        "        count[0] += 1\n"
        "        if count[0] <= 2: raise OSError('no more')\n"
        "        return real(plan)\n"
        "    built.engine._runner.submit = submit"
    )

    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.READY)
        (told,) = await news_of(supervisor, max_tokens=3)
        assert isinstance(told, Failure) and "OSError" in str(told.error)
        again = (await news_of(supervisor, max_tokens=3))[-1]
        assert not isinstance(again, Failure) and again[0].num_output == 3
        assert supervisor.num_restarts == 0

    supervised(model, check, after=fails)


def test_memory_that_runs_out_is_told_to_one_request_as_its_own_end(model: Path) -> None:
    fails = (
        "real, count = built.engine._runner.submit, [0]\n"
        "    def submit(plan):\n"
        "        count[0] += 1\n"
        "        if count[0] in (3, 4): raise MemoryError('no more')\n"
        "        return real(plan)\n"
        "    built.engine._runner.submit = submit"
    )

    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.READY)
        last = (await news_of(supervisor, max_tokens=30, ignore_eos=True))[-1]
        assert not isinstance(last, Failure)
        (seq,) = last
        assert seq.finish_reason == "error" and seq.num_output == 2
        assert type(seq.error) is CapacityError and "memory ran out" in str(seq.error)
        again = (await news_of(supervisor, max_tokens=3, ignore_eos=True))[-1]
        assert not isinstance(again, Failure) and again[0].num_output == 3 and again[0].error is None
        assert supervisor.num_restarts == 0

    supervised(model, check, after=fails)


def test_memory_that_the_system_refuses_at_start_ends_it_with_advice(model: Path) -> None:
    limited = (
        "import resource, torch\n"
        "    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)"
    )

    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.FAILED)

    found = supervised(model, check, before=limited, num_blocks=None, kv_cache_memory_bytes=512 << 20)
    said = str(found.last_failure)
    assert found.exit_code == 3 and "\n" not in said
    for word in ("KV cache of 512 MiB", "were free", "kv_cache_memory_bytes", "max_model_len", "max_num_seqs"):
        assert word in said


def test_after_close_requests_are_refused(model: Path) -> None:
    async def check(supervisor: Supervisor) -> None:
        await until(lambda: supervisor.health is Health.READY)
        assert supervisor.model is not None
        client, frontend = supervisor.model.client, supervisor.model.frontend
        await supervisor.close()
        (prepared,) = frontend.prepare([[5]], SamplingParams())
        with pytest.raises(UsageError, match="closed"):
            client.add(prepared.requests, lambda news: None)

    supervised(model, check)
