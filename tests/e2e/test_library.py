"""What the library leaves alone in the process that it lives in. Each case is a program of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkpoints import Checkpoints

WATCH = """
import numpy, torch  # which do some of it themselves
import os, signal, subprocess, sys, threading, logging, multiprocessing
num_threads = torch.get_num_threads()
os.environ["APHRODITE_CPU_THREADS"] = "2" if num_threads == 1 else "1"  # the engine's thread has another number
environment, handlers = dict(os.environ), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
spawned = []
sys.addaudithook(lambda event, args: spawned.append(event)
                 if event in ("os.fork", "os.posix_spawn", "subprocess.Popen", "os.exec", "os.putenv") else None)
"""
CHECK = """
assert dict(os.environ) == environment, "the environment"
assert torch.get_num_threads() == num_threads, "torch's threads"
assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)] == handlers, "handlers"
assert not spawned, spawned
assert not logging.getLogger().handlers and not logging.getLogger("aphrodite").handlers, "logging"
assert not {"starlette", "uvicorn", "transformers", "fastapi"} & set(sys.modules), "packages that nobody asked for"
"""
GENERATE = """
from aphrodite import LLM, SamplingParams
llm = LLM(MODEL, device=DEVICE, max_model_len=64)
llm.generate([[5, 6], "The engine"], SamplingParams(max_tokens=4))
"""
CASES = {
    "used, closed and left": WATCH + GENERATE + "llm.close()\n" + CHECK,
    "never closed": WATCH + GENERATE + CHECK,
    "left in the middle of a stream": WATCH + GENERATE
    + "stream = llm.stream([5], SamplingParams(max_tokens=None, ignore_eos=True)); next(stream)\n" + CHECK,
    "in a thread": WATCH + "def work():\n    " + GENERATE.strip().replace("\n", "\n    ") + "\n"
    + "thread = threading.Thread(target=work); thread.start(); thread.join()\n" + CHECK,
    "under a running event loop, as in a notebook": WATCH + "import asyncio\nasync def cell():\n    "
    + GENERATE.strip().replace("\n", "\n    ") + "\nasyncio.run(cell())\n" + CHECK,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Checkpoints(tmp_path_factory.mktemp("library")).llama()


@pytest.mark.parametrize(
    ("case", "device"), [*((case, "cpu") for case in CASES), ("left in the middle of a stream", "toy")]
)
def test_a_program_with_an_engine_in_it_is_left_alone_and_ends(case: str, device: str, model: Path) -> None:
    program = f"MODEL, DEVICE = {str(model)!r}, {device!r}\n{CASES[case]}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_interrupt_breaks_off_generate_and_leaves_the_engine_sound(model: Path) -> None:
    program = f"""
import os, signal, threading
from aphrodite import LLM, SamplingParams
llm = LLM({str(model)!r}, max_model_len=400)
short = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
expected = llm.generate([[5, 6]], short)[0].outputs[0].token_ids
step = llm._local.engine.step
def interrupting():
    llm._local.engine.step = step
    os.kill(os.getpid(), signal.SIGINT)
    return step()
llm._local.engine.step = interrupting
try:
    llm.generate([[5, 6]] * 20, SamplingParams(temperature=0, max_tokens=None, ignore_eos=True))
except KeyboardInterrupt:
    print("interrupted", llm.generate([[5, 6]], short)[0].outputs[0].token_ids == expected)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted True\n", "")
