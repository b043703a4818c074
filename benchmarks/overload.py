"""Many more requests than a server has room for: how soon those that are too many hear of it, and how the others fare.

    python benchmarks/overload.py [--requests 5000] [--rates 1000,4000,0] [--out FILE]

5,000 requests, each on a connection of its own, to a server that has room for 128 sequences and an engine that sleeps
(see `serving.py`). The connections are open beforehand, as a proxy's are, for what is asked is what a refusal takes and
not what a handshake does. Whatever is answered, the next request is sent on time (open loop): at each of the rates a
second, or, 0, as fast as one process can. Latency is the client's, from before it writes a request until it has read
the whole answer. Two servers that do nothing but refuse get the same requests: `floor`, a protocol on uvloop that
answers whatever comes with the same bytes, and `uvicorn`, with an application that sends a fixed answer.

--out writes {"schema": "aphrodite.bench.overload/1", "machine": {...}, "rows": [...]}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving import cpu_s, started, wait_for, with_server

REFUSED_TARGET_MS = 50.0  # the 99th percentile
GOODPUT_TARGET = 0.95
ROOM = (64, 64)  # sequences that run, and that wait, under overload
ACCEPTED_TOKENS = 100
REFUSAL_BODY = b'{"error":{"message":"try again later"}}'
REFUSAL_HEADERS = [(b"retry-after", b"5"), (b"content-length", b"%d" % len(REFUSAL_BODY))]
REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\n%s\r\n%s" % (
    b"".join(b"%s: %s\r\n" % pair for pair in REFUSAL_HEADERS),
    REFUSAL_BODY,
)


# ---- servers that only refuse ----------------------------------------------------------------------------------------


async def floor_server(port: int) -> None:
    """Refuse whatever comes: the least that one process of this language can do."""

    class Refusing(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport: Any = transport

        def data_received(self, data: bytes) -> None:
            self._transport.write(REFUSAL)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Refusing, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def uvicorn_server(port: int) -> None:
    """Refuse with an application that does nothing else."""
    import uvicorn

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 429, "headers": REFUSAL_HEADERS})
        await send({"type": "http.response.body", "body": REFUSAL_BODY})

    uvicorn.run(refuse, port=port, lifespan="off", access_log=False, log_level="error", backlog=4096)


def run_refusing(kind: str, port: int) -> None:
    """One of the two."""
    import uvloop

    from aphrodite.server.serve import raise_file_limit

    raise_file_limit()
    if kind == "floor":
        uvloop.run(floor_server(port))
    else:
        uvicorn_server(port)


# ---- the client ------------------------------------------------------------------------------------------------------


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
    accepted_s = max(ends, default=found[0].began_s) - found[0].began_s
    print(json.dumps({"accepted": len(ends), "accepted_s": accepted_s, **parts}))


# ---- the measurements ------------------------------------------------------------------------------------------------


def overload(port: int, pid: int, step_ms: float, count: int, rate: float) -> dict[str, Any]:
    """Many more requests than there is room for, as a row of the table."""
    before = cpu_s(pid)
    command = ("--role", "askers", "--port", str(port), "--requests", str(count), "--rates", str(rate))
    done = subprocess.run([sys.executable, __file__, *command], capture_output=True, check=True)
    found = json.loads(done.stdout)
    goodput = 0.0
    if found["accepted"]:
        goodput = found["accepted"] / ROOM[0] * ACCEPTED_TOKENS * step_ms / 1e3 / found["accepted_s"]
    return {
        "rate": rate,
        "sent_s": found["sent_s"],
        "refused_p50_ms": found["p50_s"] * 1e3,
        "refused_p99_ms": found["p99_s"] * 1e3,
        "accepted": found["accepted"],
        "goodput": goodput,
        "server_us_each": (cpu_s(pid) - before) / count * 1e6,
    }


def refused(count: int, rates: list[float]) -> list[dict[str, Any]]:
    """The overload, at each rate and of each server, as a table."""
    rows: list[dict[str, Any]] = []

    def row(kind: str, port: int, pid: int, rate: float) -> None:
        rows.append(found := {"server": kind, **overload(port, pid, 10.0, count, rate)})
        print(
            f"{kind:9} {found['sent_s']:7.2f} {found['accepted']:8} {found['goodput']:8.1%} "
            f"{found['refused_p50_ms']:17.1f} {found['refused_p99_ms']:8.1f} {found['server_us_each']:11.0f}",
            flush=True,
        )

    print(
        f"{count} requests; of ours, {sum(ROOM)} at a time are taken on, at no less than {GOODPUT_TARGET:.0%} of the "
        f"engine's pace; refused p99 at most {REFUSED_TARGET_MS:g} ms\n"
        "server    within s finished  goodput  refused ms: p50      p99  us/request"
    )

    def ours(port: int, pids: tuple[int, int]) -> None:
        for rate in rates:
            row("aphrodite", port, pids[0], rate)

    with_server(10.0, ours, ROOM)
    for kind in ("floor", "uvicorn"):
        with started(__file__, kind) as (port, pid):
            wait_for(port, 429)
            for rate in rates:
                row(kind, port, pid, rate)
    return rows


def main() -> None:
    """Run it, or one of the processes that it starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=("askers", "floor", "uvicorn"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rates", default="1000,4000,0")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.role == "askers":
        run_askers(args.port, args.requests, float(args.rates))
    elif args.role is not None:
        run_refusing(args.role, args.port)
    else:
        rows = refused(args.requests, list(map(float, args.rates.split(","))))
        if args.out:
            machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
            document = {"schema": "aphrodite.bench.overload/1", "machine": machine, "rows": rows}
            args.out.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
