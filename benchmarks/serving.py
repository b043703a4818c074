"""What serving adds to an engine: steps lost, time to the first byte, processor time while idle.

    python benchmarks/serving.py [--streams 1,32,256] [--step-ms 10,5] [--tokens 300] [--idle-s 10] [--out FILE]

The runner is faked: a step takes the time that is said and draws a fresh token for every sequence; scheduler, engine
loop, messages, server, detokenising (with the tokenizer of `demo-draft`, from aphrodite-demo) and HTTP are real. Three
processes: the engine, the server, and the load client, whose processor time is shown, since it shares the machine with
them. By streams and step:

    kept     steps that the engine made, of those that it would have made in the time if nothing had held it up
    tokens/chunk   1: each token came in a chunk of its own; more: the earlier chunk was still unflushed
    over engine  the mean time from a request to the first byte of its stream, less what the engine itself says of its
                 part, from the request's arrival there to its first token: who arrives while a step runs waits for its
                 end as well. `at once`: all streams begin in one moment, so that the last waits for the reading of all
                 others; `in turn`: they begin one after the other, three times as many, so that about as many run
    us/token     processor time of the server's process, requests and all; other loads of the machine enter least here

--out writes {"schema": "aphrodite.bench.serving/1", "machine": {...}, "results": [...], "idle": {...}}.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

KEPT_TARGET = {10.0: 0.90}
FIRST_BYTE_TARGET_MS = 10.0  # at 32 streams
IDLE_TARGET = 0.01
SETTLE_S = 1.5  # the engine tells of its steps now and then
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


# ---- the engine's process -------------------------------------------------------------------------------------------


def run_engine(step_s: float) -> None:
    """An engine whose runner sleeps."""
    import numpy as np

    from aphrodite.engine.engine import Engine
    from aphrodite.engine.remote import process
    from aphrodite.kv.manager import KVCacheManager
    from aphrodite.kv.spec import CacheGroup, KVPlan, LayerKV
    from aphrodite.sched.scheduler import Budget, Scheduler
    from aphrodite.types.model_card import ModelCard
    from aphrodite.types.step import SchedulerOutput, StepOutput

    class Sleeping:
        """Step after step, each `step_s` after the last."""

        def __init__(self, vocab_size: int) -> None:
            self._tokens = np.random.default_rng(0).integers(200, vocab_size, (64, 1024))
            self._count = 0
            self._last = 0.0

        def submit(self, plan: SchedulerOutput) -> SchedulerOutput:
            return plan

        def sample(self, step: SchedulerOutput, late: None = None) -> Any:
            self._count += 1
            self._num = int(step.num_logits.sum())
            return self

        def done(self) -> bool:
            return False

        def result(self) -> StepOutput:
            now = time.monotonic()
            due = max(self._last + step_s, now) if now - self._last < 2 * step_s else now + step_s
            time.sleep(max(0.0, due - now))
            self._last = due
            return StepOutput(self._tokens[self._count % 64, : self._num].copy(), None)

        def recover(self) -> None:
            pass

        def close(self) -> None:
            pass

    def build(config: Any, progress: object, on_drawn: object) -> process.Built:
        folder = config.model.model
        size = json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
        kv = KVCacheManager(KVPlan((CacheGroup("full", (LayerKV(8, 128, 128, 2),)),), 16, 1 << 15))
        seqs = config.scheduler.max_num_seqs
        scheduler = Scheduler(kv, Budget(1 << 15, seqs, max(64, seqs)))
        card = ModelCard(folder, folder, size, 4096, frozenset(), {}, 0)
        return process.Built(Engine(scheduler, Sleeping(size)), card, seqs, {}, [])

    process.main(build)


def run_server(folder: str, port: int, step_ms: float, room: tuple[int, int]) -> None:
    """The server, over that engine."""
    from aphrodite.config.engine import EngineConfig, ModelConfig, SchedulerConfig
    from aphrodite.config.server import ServerConfig
    from aphrodite.engine.remote.spawn import Process
    from aphrodite.server import logs
    from aphrodite.server.keys import Keys
    from aphrodite.server.serve import run

    logs.set_up("text")
    config = EngineConfig(ModelConfig(folder), scheduler=SchedulerConfig(max_num_seqs=room[0]))
    command = (sys.executable, __file__, "--role", "engine", "--step-ms", str(step_ms))
    server = ServerConfig(port=port, max_queue=room[1], log_requests=False)
    sys.exit(run(config, server, Process.spawn(config, command), (Keys(), Keys())))


# ---- the load client's process --------------------------------------------------------------------------------------


async def one_stream(port: int, tokens: int) -> dict[str, float]:
    """A stream, read as fast as it comes: seconds to its first byte, to its first and last chunk, chunks."""
    body = json.dumps({"prompt": [300] * 8, "max_tokens": tokens, "stream": True, "temperature": 0, "ignore_eos": True})
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    began = time.perf_counter()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body.encode())
    )
    first = last = 0.0
    reads = chunks = 0
    while data := await reader.read(1 << 16):
        now = time.perf_counter()
        first = first or now
        reads += 1
        found = data.count(b"data: {")
        chunks += found
        if found:
            last = now
    writer.close()
    return {"first_s": first - began, "span_s": last - first, "reads": reads, "chunks": chunks}


async def load(port: int, streams: int, tokens: int, apart_s: float) -> list[dict[str, float]]:
    """So many streams, each so many seconds after the one before."""

    async def one(place: int) -> dict[str, float]:
        await asyncio.sleep(place * apart_s)
        return await one_stream(port, tokens)

    return list(await asyncio.gather(*map(one, range(streams))))


def run_client(port: int, streams: int, tokens: int, apart_s: float) -> None:
    """Print what the streams have seen, and what it has cost."""
    import uvloop

    found = uvloop.run(load(port, streams, tokens, apart_s))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"streams": found, "cpu_s": usage.ru_utime + usage.ru_stime}))


# ---- the measurements -----------------------------------------------------------------------------------------------


def measure(port: int, pids: tuple[int, int], streams: int, step_ms: float, tokens: int) -> dict[str, float]:
    """One load, as a row of the table."""
    before = [cpu_s(pid) for pid in pids]
    began = time.perf_counter()
    found = client(port, streams, tokens)
    elapsed_s = time.perf_counter() - began - SETTLE_S
    each = found["streams"]
    span_s = statistics.median(one["span_s"] for one in each)
    server_s, engine_s = (cpu_s(pid) - start for pid, start in zip(pids, before, strict=True))
    return {
        "streams": streams,
        "step_ms": step_ms,
        "kept": (tokens - 1) * step_ms / 1e3 / span_s if tokens > 1 else 1.0,
        "steps": found["steps"],
        "tokens_a_chunk": tokens * streams / sum(one["chunks"] for one in each),
        "first_byte_ms": statistics.median(one["first_s"] * 1e3 for one in each) - step_ms,
        "over_engine_ms": found["over_engine_ms"],
        "in_turn_ms": client(port, 3 * streams, tokens, tokens * step_ms / 1e3 / streams)["over_engine_ms"],
        "server_us_a_token": server_s / (tokens * streams) * 1e6,
        "server_cores": server_s / elapsed_s,
        "engine_cores": engine_s / elapsed_s,
        "client_cores": found["cpu_s"] / elapsed_s,
    }


def client(port: int, streams: int, tokens: int, apart_s: float = 0.0) -> dict[str, Any]:
    """What a load client has seen; the engine's steps; milliseconds to the first byte over the engine's own, mean."""
    earlier = counted(port)
    command = ("--role", "client", "--port", str(port), "--streams", str(streams), "--tokens", str(tokens))
    done = subprocess.run(
        [sys.executable, __file__, *command, "--apart-s", str(apart_s)], capture_output=True, check=True
    )
    time.sleep(SETTLE_S)
    now = counted(port)
    found: dict[str, Any] = json.loads(done.stdout)
    mean_s = statistics.mean(one["first_s"] for one in found["streams"])
    over_ms = (mean_s - (now["own_s"] - earlier["own_s"]) / streams) * 1e3
    return {**found, "steps": now["steps"] - earlier["steps"], "over_engine_ms": over_ms}


def counted(port: int) -> dict[str, float]:
    """What the server has counted so far: steps, and seconds of requests in the engine up to their first tokens."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("aphrodite:"))
    found = {name.partition("{")[0].removeprefix("aphrodite:"): float(value) for name, value in pairs}
    own_s = found.get("request_queue_time_seconds_sum", 0.0) + found.get("request_prefill_time_seconds_sum", 0.0)
    return {"steps": found["engine_steps_total"], "own_s": own_s}


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def with_server(step_ms: float, run: Callable[[int, tuple[int, int]], Any], room: tuple[int, int] = (1024, 512)) -> Any:
    """What `run` gives of a server's port and the processes of server and engine."""
    from aphrodite.weights.sources import folder_of

    folder = str(folder_of("demo-draft"))  # for its tokenizer
    settings = ("--folder", folder, "--step-ms", str(step_ms), "--room", f"{room[0]},{room[1]}")
    with started(__file__, "server", *settings) as (port, pid):
        wait_for(port, 200)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return run(port, (pid, int(children[0])))


@contextlib.contextmanager
def started(file: str, role: str, *settings: str) -> Iterator[tuple[int, int]]:
    """A process of a benchmark: the port that it is to listen on, and its number."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = (sys.executable, file, "--role", role, "--port", str(port), *settings)
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield port, server.pid
    finally:
        server.terminate()
        server.wait(30)


def wait_for(port: int, status: int) -> None:
    """Return once a server answers with that status."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready") as answer:
                found = answer.status
        except urllib.error.HTTPError as error:
            found = error.code
        except OSError:
            found = 0
        if found == status:
            return
        time.sleep(0.05)
    raise RuntimeError("the server is not ready within 30 s")


def idle(port: int, pids: tuple[int, int], idle_s: float) -> dict[str, float]:
    """Cores that server and engine take while nobody asks."""
    time.sleep(2)
    before = [cpu_s(pid) for pid in pids]
    time.sleep(idle_s)
    server_s, engine_s = (cpu_s(pid) - start for pid, start in zip(pids, before, strict=True))
    return {"server_cores": server_s / idle_s, "engine_cores": engine_s / idle_s}


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=("engine", "server", "client"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--streams", default="1,32,256")
    parser.add_argument("--step-ms", default="10,5")
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--apart-s", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--idle-s", type=float, default=10)
    parser.add_argument("--room", default="1024,512", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args, _ = parser.parse_known_args()
    if args.role == "engine":
        run_engine(float(args.step_ms) / 1e3)
    elif args.role == "server":
        running, waiting = map(int, args.room.split(","))
        run_server(args.folder, args.port, float(args.step_ms), (running, waiting))
    elif args.role == "client":
        run_client(args.port, int(args.streams), args.tokens, args.apart_s)
    else:
        report(args)


def report(args: argparse.Namespace) -> None:
    """All measurements, as a table and a document."""
    rows: list[dict[str, float]] = []
    quiet: dict[str, float] = {}
    print(
        "streams  step ms   kept  target  tokens/chunk  over engine ms: at once  in turn  us/token   "
        "cores: server  engine  client"
    )
    for step_ms in map(float, args.step_ms.split(",")):

        def run(port: int, pids: tuple[int, int], step_ms: float = step_ms) -> None:
            measure(port, pids, 4, step_ms, 20)  # warm
            for streams in map(int, args.streams.split(",")):
                row = measure(port, pids, streams, step_ms, args.tokens)
                rows.append(row)
                target = KEPT_TARGET.get(step_ms) if streams == 256 else None
                print(
                    f"{streams:7} {step_ms:8g} {row['kept']:6.1%} {target or float('nan'):7.0%} "
                    f"{row['tokens_a_chunk']:13.2f} {row['over_engine_ms']:24.1f} "
                    f"{row['in_turn_ms']:8.1f} {row['server_us_a_token']:9.1f} "
                    f"{row['server_cores']:15.2f} "
                    f"{row['engine_cores']:7.2f} {row['client_cores']:7.2f}",
                    flush=True,
                )
            if not quiet:
                quiet.update(idle(port, pids, args.idle_s))

        with_server(step_ms, run)
    print(
        f"idle: server {quiet['server_cores']:.2%} and engine {quiet['engine_cores']:.2%} of a core (together at most "
        f"{IDLE_TARGET:.0%})\nfirst byte at 32 streams: at most {FIRST_BYTE_TARGET_MS:g} ms over the engine's own"
    )
    if args.out:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        document = {"schema": "aphrodite.bench.serving/1", "machine": machine, "results": rows, "idle": quiet}
        args.out.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
