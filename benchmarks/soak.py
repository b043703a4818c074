"""What is left of a server after much abuse: the engine killed again and again, a storm of clients, many requests.

    python benchmarks/soak.py [--devices cpu,toy] [--kills 20] [--rounds 20] [--storm 2000] [--requests 20000]
                              [--saturate-s 3600] [--crashes 50] [--tenants 2000] [--cuts 2000]
                              [--out FOLDER]

`aphrodite run` of a small model on each device, in this order:

    kills        8 streams, then SIGKILL for the engine's process: seconds until the last stream has its error, and
                 until the server is ready again, beside those of the first load
    disconnects  1,000 streams, each cut at a moment of its own, in rounds: seconds until the server holds none of them,
                 and until the engine says so of its blocks
    storm        clients that leave, send nonsense, read slowly or ask properly, 256 at a time; each whole answer is
                 compared with what the same request got alone
    requests     of many lengths, 64 at a time; resident memory of both processes before and after the second half
    saturation   twice as many streams as run at once; /health must not call that an engine that has stopped
    crashes      both processes killed at a moment of chance, in a load or under streams: how the next start is
    tenants      what one key has had computed, asked for by another: cached tokens that it is told of, and whether time
                 tells them from fresh prompts

After each of the first five, the books must balance: no request in flight, every KV block free, no leak, the canary's
answer the same. Exit code 1 if anything is not as it must be. --out writes {"schema": "aphrodite.bench.soak/2", ...}
with each promise, its figure and its mark, to soak-DEVICE.json there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crashes import crashes
from cuts import cuts
from served import Server, ask, circumstances, posted, streamed_text
from tenants import tenants

MOST_ERROR_S = 1.0
MOST_LATER_S = 5.0  # over a cold load
MOST_HELD_S = 1.0
PULSE_S = 1.0  # how old the engine's word may be
MOST_GROWTH_BYTES = 16 << 20
MOST_AUC = 0.55
MOST_UNSEEN_S = 0.25
FLAGS = ("--num-blocks", "600", "--max-num-seqs", "64", "--max-queue", "2000")
_STREAMS = 1000  # of a round of disconnects
_WITHIN_S = 4.0  # from the first cut to the last: one core, for all processes, starts and ends 400 streams a second
_PROMPTS = ("The engine", "A block of tokens", "import torch", "def main", "sequences and steps", "x " * 40)
_FAULTS = (b'{"prompt": ', b"\xff\xfe", b'{"prompt": "a", "n": 1000}', b'{"prompt": "a", "temperature": "hot"}', b"[]")


@dataclass(frozen=True)
class Promise:
    """What was promised, what was seen, and the most that may be."""

    promise: str
    figure: float
    mark: float
    unit: str

    @property
    def is_kept(self) -> bool:
        """Whether it was."""
        return self.figure <= self.mark


async def kills(server: Server, count: int) -> dict[str, float]:
    """Kill the engine under load, again and again."""
    errors, returns = [0.0], [0.0]
    asked = posted(
        json.dumps({"prompt": "a b", "max_tokens": 200, "stream": True, "ignore_eos": True, "n": 4}).encode()
    )
    for _ in range(count):
        streams = [asyncio.ensure_future(ask(server.port, asked)) for _ in range(8)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        os.kill(server.engine_pid, signal.SIGKILL)
        ended = await asyncio.gather(*streams)
        errors.append(time.monotonic() - began)
        if not all(b"engine_died" in body or b"engine_restarting" in body for _, body in ended):
            raise RuntimeError("a stream had no error")
        await server.ready()
        returns.append(time.monotonic() - began)
    return {"kills": count, "last_error_s": max(errors), "ready_again_s": max(returns)}


async def disconnects(server: Server, rounds: int, rng: random.Random) -> dict[str, float]:
    """Many streams at a time that are all cut; how long what they held is held."""
    asked = posted(json.dumps({"prompt": "a b c", "max_tokens": 200, "stream": True, "ignore_eos": True}).encode())
    held, blocks = [0.0], [0.0]

    async def one() -> None:
        with contextlib.suppress(OSError):  # a connection that is refused has left, too
            await ask(server.port, asked, leave_s=rng.random() * _WITHIN_S)

    for _ in range(rounds):
        await asyncio.gather(*(one() for _ in range(_STREAMS)))
        cut = time.monotonic()
        while (await server.gauges())["num_requests_in_flight"] and time.monotonic() < cut + 30:
            await asyncio.sleep(0.01)
        held.append(time.monotonic() - cut)
        while await server.in_use() and time.monotonic() < cut + 30:
            await asyncio.sleep(0.05)
        blocks.append(time.monotonic() - cut)
    return {"rounds": rounds, "streams": rounds * _STREAMS, "held_s": max(held), "blocks_held_s": max(blocks)}


async def storm(server: Server, count: int, rng: random.Random) -> dict[str, int]:
    """Clients of all kinds, 256 at a time."""
    alone: dict[tuple[str, int], str] = {}
    for prompt in _PROMPTS:
        for seed in range(4):
            status, answer = await server.complete(prompt=prompt, max_tokens=40, temperature=1, seed=seed)
            if status != 200:
                raise RuntimeError(f"{status} for a request alone")
            alone[prompt, seed] = answer["choices"][0]["text"]
    gate = asyncio.Semaphore(256)
    seen = dict.fromkeys(("whole", "stream", "slow", "leaves", "nonsense", "wrong"), 0)

    async def one(kind: str) -> None:
        prompt, seed = rng.choice(_PROMPTS), rng.randrange(4)
        asked = {"prompt": prompt, "max_tokens": 40, "temperature": 1, "seed": seed, "stream": kind != "whole"}
        request = posted(rng.choice(_FAULTS) if kind == "nonsense" else json.dumps(asked).encode())
        leave_s = rng.random() * 0.3 if kind == "leaves" else None
        async with gate:
            status, body = await ask(server.port, request, slow=kind == "slow", leave_s=leave_s)
        seen[kind] += 1
        if kind == "nonsense":
            seen["wrong"] += status != 400
        elif kind != "leaves":
            text = "" if status != 200 else streamed_text(body) if kind != "whole" else None
            if text is None:
                text = json.loads(body)["choices"][0]["text"]
            seen["wrong"] += text != alone[prompt, seed]

    kinds = ("whole", "stream", "slow", "leaves", "nonsense")
    await asyncio.gather(*(one(rng.choice(kinds)) for _ in range(count)))
    return seen


async def requests(server: Server, count: int, rng: random.Random) -> dict[str, Any]:
    """Short answers to prompts of many lengths, and what memory does."""
    gate = asyncio.Semaphore(64)

    async def one(number: int) -> None:
        async with gate:
            prompt = f"request {number}" + " and on" * rng.randrange(100)
            status, _ = await server.complete(prompt=prompt, max_tokens=4, temperature=1)
            if status != 200:
                raise RuntimeError(f"{status} for a plain request")

    marks = []
    for half in range(2):
        await asyncio.gather(*(one(half * count + number) for number in range(count // 2)))
        marks.append(server.memory_bytes())
    growth = {name: marks[1][name] - marks[0][name] for name in marks[0]}
    return {"requests": count, "growth_bytes": growth, "resident_bytes": marks[1]}


async def saturation(server: Server, seconds: float) -> dict[str, Any]:
    """More streams than run at once, all the time; what /health says meanwhile, and how long it takes to."""
    until = time.monotonic() + seconds
    streams = alarms = asked = 0
    slowest_s = 0.0

    async def stream() -> None:
        nonlocal streams
        body = {"prompt": "x " * 40, "max_tokens": 100, "stream": True, "ignore_eos": True}
        while time.monotonic() < until:
            status, _ = await ask(server.port, posted(json.dumps(body).encode()))
            streams += status == 200

    async def watch() -> None:
        nonlocal alarms, asked, slowest_s
        while time.monotonic() < until:
            began = time.monotonic()
            alarms += (await server.get("/health"))[0] != 200
            slowest_s = max(slowest_s, time.monotonic() - began)
            asked += 1
            await asyncio.sleep(0.5)

    await asyncio.gather(watch(), *(stream() for _ in range(128)))
    return {"seconds": seconds, "streams": streams, "asked": asked, "alarms": alarms, "slowest_s": slowest_s}


async def soak(server: Server, args: argparse.Namespace, seed: int) -> tuple[dict[str, Any], list[Promise]]:
    """All phases; what was seen, and what becomes of the promises."""
    load_s = await server.ready()
    found: dict[str, Any] = {"load_s": load_s}
    unbalanced: list[str] = []
    for name, run in (
        ("kills", lambda: kills(server, args.kills)),
        ("disconnects", lambda: disconnects(server, args.rounds, random.Random(seed))),
        ("storm", lambda: storm(server, args.storm, random.Random(seed))),
        ("requests", lambda: requests(server, args.requests, random.Random(seed))),
        ("saturation", lambda: saturation(server, args.saturate_s)),
    ):
        began = time.monotonic()
        found[name] = await run()
        took = time.monotonic() - began
        unbalanced += [f"after {name}: {what}" for what in await server.wrong()]
        found[name]["took_s"] = round(took, 1)
        print(f"{name:11} {took:6.0f} s  {json.dumps(found[name])}", flush=True)
    found["unbalanced"] = unbalanced
    killed, cut, growth = found["kills"], found["disconnects"], found["requests"]["growth_bytes"]
    return found, [
        Promise("last error after a kill", killed["last_error_s"], MOST_ERROR_S, "s"),
        Promise("ready again after a kill", killed["ready_again_s"], load_s + MOST_LATER_S, "s"),
        Promise("requests held after all streams are cut", cut["held_s"], MOST_HELD_S, "s"),
        Promise("blocks held then, by the engine's word", cut["blocks_held_s"], MOST_HELD_S + PULSE_S, "s"),
        Promise("wrong answers in the storm", found["storm"]["wrong"], 0, ""),
        Promise("growth of the server over the second half", growth["server"], MOST_GROWTH_BYTES, "bytes"),
        Promise("growth of the engine over the second half", growth["engine"], MOST_GROWTH_BYTES, "bytes"),
        Promise("false alarms of /health", found["saturation"]["alarms"], 0, ""),
        Promise("books that do not balance", len(unbalanced), 0, ""),
    ]


def more(found: dict[str, Any], flags: tuple[str, ...], args: argparse.Namespace, rng: random.Random) -> list[Promise]:
    """The phases that have servers of their own; what was seen goes into `found`."""
    for name, run in (
        ("crashes", crashes(flags, args.crashes, rng)),
        ("tenants", tenants(flags, args.tenants, rng)),
        ("cuts", cuts(flags, args.cuts, rng)),
    ):
        began = time.monotonic()
        found[name] = asyncio.run(run)
        found[name]["took_s"] = round(time.monotonic() - began, 1)
        print(f"{name:11} {found[name]['took_s']:6.0f} s  {json.dumps(found[name])}", flush=True)
    crashed, shared = found["crashes"], found["tenants"]
    return [
        Promise("starts that were not well after a crash", crashed["not_well_after"], 0, ""),
        Promise("processes left after a crash", crashed["left_processes"], 0, ""),
        Promise("cached tokens that another key was told of", shared["shared_tokens"], 0, ""),
        Promise("how well time tells them apart", shared["auc"], MOST_AUC, "AUC"),
        Promise("a cut stream is dropped within (p99)", found["cuts"]["p99_s"], MOST_UNSEEN_S, "s"),
    ]


def report(promises: list[Promise]) -> None:
    """A line a promise."""
    for one in promises:
        kept = "kept" if one.is_kept else "NOT KEPT"
        print(f"{one.promise:42} {one.figure:14.6g} {one.mark:14.6g} {one.unit:5} {kept}")


def soak_device(device: str, args: argparse.Namespace) -> bool:
    """Soak a server on one device and report; whether all was well."""
    about, seed = circumstances(), random.randrange(2**32)
    server = Server("--device", device, *FLAGS)
    try:
        found, promises = asyncio.run(soak(server, args, seed))
    finally:
        code = server.end()
    promises.append(Promise("exit code of the server", code, 0, ""))
    promises += more(found, ("--device", device, *FLAGS), args, random.Random(seed))
    report(promises)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        document = {"schema": "aphrodite.bench.soak/2", **about, "device": device, "seed": seed, **found}
        document["promises"] = [{**asdict(one), "is_kept": one.is_kept} for one in promises]
        (args.out / f"soak-{device}.json").write_text(json.dumps(document, indent=1) + "\n")
    return all(one.is_kept for one in promises)


def main() -> int:
    """Run it; the exit code says whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="cpu,toy")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--storm", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=20000)
    parser.add_argument("--saturate-s", type=float, default=3600)
    parser.add_argument("--crashes", type=int, default=50)
    parser.add_argument("--tenants", type=int, default=2000)
    parser.add_argument("--cuts", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    kept = [soak_device(device, args) for device in args.devices.split(",")]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
