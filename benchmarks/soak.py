"""What is left of a server after much abuse: the engine killed again and again, a storm of clients, many requests.

    python benchmarks/soak.py [--device cpu] [--kills 20] [--storm 2000] [--requests 20000] [--out FILE]

`aphrodite run` on the model `demo-draft` (aphrodite-demo), in this order:

    kills      8 streams, then SIGKILL for the engine's process: seconds until the last stream has its error, and until
               the server is ready again, beside those of the first load
    storm      clients that leave, send nonsense, read slowly or ask properly, 256 at a time; each whole answer is
               compared with what the same request got alone
    requests   of many lengths, 64 at a time; resident memory of both processes before and after the second half

After each, the books must balance: no request in flight, every KV block free, no leak, the canary's answer the same.
Exit code 1 if anything is not as it must be. --out writes {"schema": "aphrodite.bench.soak/1", ...}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODEL = "demo-draft"
MOST_ERROR_S = 1.0
MOST_LATER_S = 5.0  # over a cold load
MOST_GROWTH_BYTES = 16 << 20
CANARY = {"prompt": "The engine", "max_tokens": 24, "temperature": 0}
_PROMPTS = ("The engine", "A block of tokens", "import torch", "def main", "sequences and steps", "x " * 40)
_IN_WORK = ("in_flight", "running", "waiting", "held")
_FAULTS = (b'{"prompt": ', b"\xff\xfe", b'{"prompt": "a", "n": 1000}', b'{"prompt": "a", "temperature": "hot"}', b"[]")


class Server:
    """The process, and what it says of itself."""

    def __init__(self, device: str) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        flags = ["--device", device, "--dtype", "float32", "--num-blocks", "600"]
        flags += ["--max-num-seqs", "64", "--max-queue", "2000"]
        command = [sys.executable, "-m", "aphrodite.cli.main", "run", MODEL, "--port", str(self.port), *flags]
        self.popen = subprocess.Popen([*command, "--no-log-requests"], stderr=subprocess.DEVNULL)

    @property
    def engine_pid(self) -> int:
        """The engine's process."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        return int(children[0])

    async def get(self, path: str) -> tuple[int, bytes]:
        """A route's status and body."""
        return await ask(self.port, b"GET %s HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" % path.encode())

    async def complete(self, **asked: Any) -> tuple[int, Any]:
        """An answer's status and content."""
        status, body = await ask(self.port, posted(json.dumps(asked).encode()))
        return status, json.loads(body)

    async def ready(self, within_s: float = 60.0) -> float:
        """Wait until it is; how long that took."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            try:
                if (await self.get("/ready"))[0] == 200:
                    return time.monotonic() - began
            except OSError:
                pass
            await asyncio.sleep(0.02)
        raise RuntimeError(f"not ready within {within_s} s")

    async def gauges(self) -> dict[str, float]:
        """aphrodite:* by name."""
        lines = (await self.get("/metrics"))[1].decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("aphrodite:")]
        return {name.partition("{")[0].removeprefix("aphrodite:"): float(value) for name, value in pairs}

    def memory_bytes(self) -> dict[str, int]:
        """Resident bytes of both processes."""
        found = {}
        for name, pid in (("server", self.popen.pid), ("engine", self.engine_pid)):
            found[name] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return found


def posted(body: bytes) -> bytes:
    """A request for a completion."""
    return (
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )


async def ask(port: int, request: bytes, *, slow: bool = False, leave_s: float | None = None) -> tuple[int, bytes]:
    """A request's status and body, chunks taken together; (0, b"") for one that is left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        if leave_s is not None:
            await asyncio.sleep(leave_s)
            return 0, b""
        data = b""
        while part := await reader.read(256 if slow else 1 << 16):
            data += part
            if slow:
                await asyncio.sleep(0.002)
    finally:
        writer.close()
    head, _, rest = data.partition(b"\r\n\r\n")
    if b"chunked" in head:
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        rest = body
    return int(head.split()[1]) if head else 0, rest


def streamed_text(body: bytes) -> str:
    """The text of a stream's chunks."""
    frames = [frame.removeprefix(b"data: ") for frame in body.split(b"\n\n") if frame and b"[DONE]" not in frame]
    return "".join(choice["text"] for frame in frames for choice in json.loads(frame)["choices"])


async def balanced(server: Server, canary: str) -> list[str]:
    """What is not as it was before; nothing, in a while, if all is well."""
    wrong = ["never asked"]
    deadline = time.monotonic() + 10
    while wrong and time.monotonic() < deadline:
        await asyncio.sleep(1.1)  # the engine tells of itself once a second
        found = await server.gauges()
        wrong = [
            f"{name} is {found[name]:g}"
            for name in (*(f"num_requests_{what}" for what in _IN_WORK), "kv_blocks_leaked")
            if found[name]
        ]
        if found["kv_blocks_free"] != found["kv_blocks_total"]:
            wrong.append(f"{found['kv_blocks_free']:g} of {found['kv_blocks_total']:g} blocks are free")
    status, answer = await server.complete(**CANARY)
    if status != 200 or answer["choices"][0]["text"] != canary:
        wrong.append("the canary's answer has changed")
    return wrong


async def kills(server: Server, count: int) -> dict[str, float]:
    """Kill the engine under load, again and again."""
    errors, returns = [], []
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
    return {"kills": count, "last_error_s": max(errors, default=0.0), "ready_again_s": max(returns, default=0.0)}


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
    return {"requests": count, "growth_bytes": growth}


async def soak(server: Server, args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """All phases; what was seen, and what was wrong."""
    seed = random.randrange(2**32)
    load_s = await server.ready()
    canary = (await server.complete(**CANARY))[1]["choices"][0]["text"]
    found: dict[str, Any] = {"device": args.device, "seed": seed, "load_s": load_s}
    wrong: list[str] = []
    for name, run in (
        ("kills", lambda: kills(server, args.kills)),
        ("storm", lambda: storm(server, args.storm, random.Random(seed))),
        ("requests", lambda: requests(server, args.requests, random.Random(seed))),
    ):
        began = time.monotonic()
        found[name] = await run()
        wrong += [f"after {name}: {what}" for what in await balanced(server, canary)]
        print(f"{name:9} {time.monotonic() - began:6.0f} s  {json.dumps(found[name])}", flush=True)
    if found["kills"]["last_error_s"] > MOST_ERROR_S:
        wrong.append(f"a stream's error took more than {MOST_ERROR_S:g} s")
    if found["kills"]["ready_again_s"] > load_s + MOST_LATER_S:
        wrong.append(f"the engine's return took more than a load and {MOST_LATER_S:g} s")
    if found["storm"]["wrong"]:
        wrong.append(f"{found['storm']['wrong']} answers of the storm were wrong")
    if max(found["requests"]["growth_bytes"].values()) > MOST_GROWTH_BYTES:
        wrong.append("memory grows")
    return found, wrong


def main() -> int:
    """Run it; the exit code says whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--storm", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=20000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    server = Server(args.device)
    try:
        found, wrong = asyncio.run(soak(server, args))
    finally:
        server.popen.send_signal(signal.SIGTERM)
        code = server.popen.wait(60)
    if code != 0:
        wrong.append(f"the server ended with {code}")
    print("\n".join(wrong) or "all is as it was")
    if args.out:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        document = {"schema": "aphrodite.bench.soak/1", "machine": machine, **found, "wrong": wrong}
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
