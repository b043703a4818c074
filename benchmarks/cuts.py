"""Clients that leave: how soon each is noticed, and its request ended, by the server's own log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

from served import Server, ask, posted

_AT_ONCE = 64
_BODY = json.dumps({"prompt": "a b c", "max_tokens": 400, "stream": True, "ignore_eos": True}).encode()


async def cuts(flags: tuple[str, ...], count: int, rng: random.Random) -> dict[str, float]:
    """Streams, cut at moments of chance while others run.

    Returns how many were cut before their end, and seconds from the cut until the engine was told to drop the request,
    which it does before its next step.
    """
    cut_at: dict[str, float] = {}
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> None:
        async with gate:
            with contextlib.suppress(OSError):
                await ask(server.port, posted(_BODY, request_id=name), leave_s=rng.random() * 0.3)
            cut_at[name] = time.time()

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        server = Server(*flags, "--log-format", "json", log=log, log_requests=True)
        try:
            await server.ready(canary=False)
            await asyncio.gather(*(one(f"cut-{number}") for number in range(count)))
            wrong = await server.in_use()
            deadline = time.monotonic() + 10
            while wrong and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                wrong = await server.in_use()
        finally:
            server.end()
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    took = [
        max(0.0, line["time"] - cut_at[line["request_id"]])
        for line in lines
        if line.get("request_id") in cut_at and " left in " in line["message"]
    ]
    cuts_s = statistics.quantiles(took, n=100)
    return {"asked": count, "cut": len(took), "p50_s": cuts_s[49], "p99_s": cuts_s[98], "most_s": max(took)}
