"""What serving adds to an engine: steps lost, time to the first byte, processor time while idle.

    python benchmarks/serving.py [--streams 1,32,256] [--step-ms 10,5] [--tokens 300] [--idle-s 10]
                                 [--requests 5000] [--rates 1000,0] [--out FILE]

The runner is faked: a step takes the time that is said and draws a fresh token for every sequence; scheduler, engine
loop, messages, server, detokenising (with the tokenizer of `demo-draft`, from aphrodite-demo) and HTTP are real. Three
processes: the engine, the server, and the load client, whose processor time is shown, since it shares the machine with
them. By streams and step:

    kept     steps that the engine made, of those that it would have made in the time if nothing had held it up
    tokens/chunk   1: each token came in a chunk of its own; more: the earlier chunk was still unflushed
    first byte   from the request to the first byte of the stream, less one step, which the engine takes itself
    over engine  the mean time to the first byte, less what the engine itself says of its part, from a request's arrival
                 there to its first token: who arrives while a step runs waits for its end as well
    us/token     processor time of the server's process, requests and all; other loads of the machine enter least here

Then overload: 5,000 requests, each on a connection of its own, to a server that has room for 128 sequences. The
connections are open beforehand, as a proxy's are, for what is asked is what a refusal takes and not what a handshake
does. Whatever is answered, the next request is sent on time (open loop): at the rate that is said, or as fast as one
process can. Latency is the client's, from before it writes a request until it has read the whole answer.

--out writes {"schema": "aphrodite.bench.serving/1", "machine": {...}, "results": [...], "idle": {...},
"overload": [...]}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEPT_TARGET = {10.0: 0.90}
FIRST_BYTE_TARGET_MS = 10.0  # at 32 streams
IDLE_TARGET = 0.01
REFUSED_TARGET_MS = 50.0  # the 99th percentile
GOODPUT_TARGET = 0.95
ROOM = (64, 64)  # sequences that run, and that wait, under overload
ACCEPTED_TOKENS = 100
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

    def build(config: Any, progress: object) -> process.Built:
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


async def load(port: int, streams: int, tokens: int) -> list[dict[str, float]]:
    """So many streams at once."""
    return list(await asyncio.gather(*(one_stream(port, tokens) for _ in range(streams))))


def run_client(port: int, streams: int, tokens: int) -> None:
    """Print what the streams have seen, and what it has cost."""
    import uvloop

    found = uvloop.run(load(port, streams, tokens))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"streams": found, "cpu_s": usage.ru_utime + usage.ru_stime}))


class Asker(asyncio.Protocol):
    """A connection that asks once: the status of its answer, and seconds until it was there."""

    def __init__(self, body: bytes, done: Callable[[], None]) -> None:
        self._request = (
            b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        self._done = done
        self._data = b""
        self.status = 0
        self.retry_after: str | None = None
        self.began_s = self.seconds = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport: Any = transport

    def ask(self) -> None:
        """Send the request."""
        self.began_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """A part of the answer."""
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:]) if end else {}
        if end and len(body) == int(fields[b"content-length"]):
            self.seconds = time.perf_counter() - self.began_s
            self.status = int(head[9:12])
            self.retry_after = fields[b"retry-after"].decode() if b"retry-after" in fields else None
            self._done()


async def ask_all(port: int, count: int, rate: float) -> list[Asker]:
    """So many requests, `rate` a second; 0: one after the other without a pause."""
    loop = asyncio.get_running_loop()
    done = asyncio.Semaphore(0)
    body = {"prompt": [300] * 8, "max_tokens": ACCEPTED_TOKENS, "temperature": 0, "ignore_eos": True}
    askers = []
    for _ in range(count):
        _, asker = await loop.create_connection(
            lambda: Asker(json.dumps(body).encode(), done.release), "127.0.0.1", port
        )
        askers.append(asker)
    began = time.perf_counter()
    for place, asker in enumerate(askers):
        while rate and (early_s := began + place / rate - time.perf_counter()) > 0:
            await asyncio.sleep(early_s)
        asker.ask()
        await asyncio.sleep(0)  # answers are read as they come
    for _ in askers:
        await done.acquire()
    return askers


def run_askers(port: int, count: int, rate: float) -> None:
    """Print what became of the requests."""
    import uvloop

    from aphrodite.server.serve import raise_file_limit

    raise_file_limit()
    found = uvloop.run(ask_all(port, count, rate))
    refused = [one.seconds for one in found if one.status == 429 and one.retry_after]
    ends = [one.began_s + one.seconds for one in found if one.status == 200]
    if len(refused) + len(ends) != count:
        raise RuntimeError("some requests were neither refused with Retry-After nor finished")
    cuts = statistics.quantiles(refused, n=100)
    parts = {"p50_s": cuts[49], "p99_s": cuts[98], "sent_s": found[-1].began_s - found[0].began_s}
    print(json.dumps({"accepted": len(ends), "accepted_s": max(ends) - found[0].began_s, **parts}))


# ---- the measurements -----------------------------------------------------------------------------------------------


def measure(port: int, pids: tuple[int, int], streams: int, step_ms: float, tokens: int) -> dict[str, float]:
    """One load, as a row of the table."""
    earlier = counted(port)
    before = [cpu_s(pid) for pid in pids]
    began = time.perf_counter()
    done = subprocess.run(
        [
            *(sys.executable, __file__, "--role", "client", "--port", str(port)),
            *("--streams", str(streams), "--tokens", str(tokens)),
        ],
        capture_output=True,
        check=True,
    )
    elapsed_s = time.perf_counter() - began
    found = json.loads(done.stdout)
    each = found["streams"]
    span_s = statistics.median(one["span_s"] for one in each)
    server_s, engine_s = (cpu_s(pid) - start for pid, start in zip(pids, before, strict=True))
    time.sleep(1.5)  # the engine tells of its steps now and then
    now = counted(port)
    first_ms = [one["first_s"] * 1e3 for one in each]
    return {
        "streams": streams,
        "step_ms": step_ms,
        "kept": (tokens - 1) * step_ms / 1e3 / span_s if tokens > 1 else 1.0,
        "steps": now["steps"] - earlier["steps"],
        "tokens_a_chunk": tokens * streams / sum(one["chunks"] for one in each),
        "first_byte_ms": statistics.median(first_ms) - step_ms,
        "over_engine_ms": statistics.mean(first_ms) - (now["own_s"] - earlier["own_s"]) / streams * 1e3,
        "server_us_a_token": server_s / (tokens * streams) * 1e6,
        "server_cores": server_s / elapsed_s,
        "engine_cores": engine_s / elapsed_s,
        "client_cores": found["cpu_s"] / elapsed_s,
    }


def overload(port: int, pids: tuple[int, int], step_ms: float, count: int, rate: float) -> dict[str, float]:
    """Many more requests than there is room for, as a row of the table."""
    before = cpu_s(pids[0])
    command = ("--role", "askers", "--port", str(port), "--requests", str(count), "--rates", str(rate))
    done = subprocess.run([sys.executable, __file__, *command], capture_output=True, check=True)
    found = json.loads(done.stdout)
    return {
        "rate": rate,
        "sent_s": found["sent_s"],
        "refused_p50_ms": found["p50_s"] * 1e3,
        "refused_p99_ms": found["p99_s"] * 1e3,
        "accepted": found["accepted"],
        "goodput": found["accepted"] / ROOM[0] * ACCEPTED_TOKENS * step_ms / 1e3 / found["accepted_s"],
        "server_us_each": (cpu_s(pids[0]) - before) / count * 1e6,
    }


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
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.close()
        server = subprocess.Popen(
            [
                *(sys.executable, __file__, "--role", "server", "--folder", folder),
                *("--port", str(port), "--step-ms", str(step_ms), "--room", f"{room[0]},{room[1]}"),
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_ready(port)
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            return run(port, (server.pid, int(children[0])))
        finally:
            server.terminate()
            server.wait(30)


def wait_ready(port: int) -> None:
    """Return once the server is."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready"):
                return
        except OSError:
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
    parser.add_argument("--role", choices=("engine", "server", "client", "askers"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--streams", default="1,32,256")
    parser.add_argument("--step-ms", default="10,5")
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--idle-s", type=float, default=10)
    parser.add_argument("--room", default="1024,512", help=argparse.SUPPRESS)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rates", default="1000,0")
    parser.add_argument("--out", type=Path)
    args, _ = parser.parse_known_args()
    if args.role == "engine":
        run_engine(float(args.step_ms) / 1e3)
    elif args.role == "server":
        running, waiting = map(int, args.room.split(","))
        run_server(args.folder, args.port, float(args.step_ms), (running, waiting))
    elif args.role == "client":
        run_client(args.port, int(args.streams), args.tokens)
    elif args.role == "askers":
        run_askers(args.port, args.requests, float(args.rates))
    else:
        report(args)


def report(args: argparse.Namespace) -> None:
    """All measurements, as a table and a document."""
    rows: list[dict[str, float]] = []
    quiet: dict[str, float] = {}
    print(
        "streams  step ms   kept  target  tokens/chunk  first byte ms  over engine  us/token   "
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
                    f"{row['tokens_a_chunk']:13.2f} {row['first_byte_ms']:14.1f} "
                    f"{row['over_engine_ms']:12.1f} {row['server_us_a_token']:9.1f} "
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
    refusals: list[dict[str, float]] = []
    if args.requests:

        def run_overload(port: int, pids: tuple[int, int]) -> None:
            for rate in map(float, args.rates.split(",")):
                refusals.append(row := overload(port, pids, 10.0, args.requests, rate))
                print(
                    f"{args.requests} requests in {row['sent_s']:.1f} s: {row['accepted']} finished, at "
                    f"{row['goodput']:.1%} of the engine's pace (at least {GOODPUT_TARGET:.0%}); the others refused, "
                    f"p50 {row['refused_p50_ms']:.1f} ms, p99 {row['refused_p99_ms']:.1f} ms (at most "
                    f"{REFUSED_TARGET_MS:g}); server {row['server_us_each']:.0f} us a request",
                    flush=True,
                )

        with_server(10.0, run_overload, ROOM)
    if args.out:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        document = {"schema": "aphrodite.bench.serving/1", "machine": machine, "results": rows, "idle": quiet}
        document["overload"] = refusals
        args.out.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
