"""Both processes of a server killed in one moment, whatever they are at: the next start must find nothing amiss."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

from served import Server, ask, posted

_STREAM = posted(json.dumps({"prompt": "a b c", "max_tokens": 200, "stream": True, "ignore_eos": True}).encode())
_GONE_S = 5.0


async def crashes(flags: tuple[str, ...], count: int, rng: random.Random) -> dict[str, float]:
    """Kill everything `count` times, at moments from the start to some time after a load, with streams open if there is
    somebody to ask.

    Returns how often that was before the server was ready; how many starts after it were not well: the server not
    ready, another answer to the canary, an exit code; and how many processes were left.
    """
    load_s, canary = await _start_well(flags, "")
    early = wrong = left = 0
    for _ in range(count):
        server = Server(*flags)
        until = time.monotonic() + rng.uniform(0.0, 2 * load_s)
        streams: list[asyncio.Future[tuple[int, bytes]]] = []
        is_ready = False
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                is_ready = is_ready or (await server.get("/ready"))[0] == 200
                if is_ready and len(streams) < 8:
                    streams.append(asyncio.ensure_future(ask(server.port, _STREAM)))
            await asyncio.sleep(0.01)
        early += not is_ready
        pids = [*_children(server.popen.pid), server.popen.pid]
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)
        server.popen.wait()
        await asyncio.gather(*streams, return_exceptions=True)
        left += await _still_there(pids)
        wrong += (await _start_well(flags, canary))[1] != canary
    return {"crashes": count, "before_ready": early, "not_well_after": wrong, "left_processes": left, "load_s": load_s}


async def _start_well(flags: tuple[str, ...], canary: str) -> tuple[float, str]:
    """Seconds until a server was ready, and what it says; what is wrong instead, if something is."""
    server = Server(*flags)
    try:
        load_s = await server.ready()
        wrong = await server.wrong() if canary else []
    except RuntimeError as error:
        load_s, wrong = 0.0, [str(error)]
    finally:
        code = server.end()
    return load_s, "; ".join(wrong) or (server.canary if code == 0 else f"exit code {code}")


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


async def _still_there(pids: list[int]) -> int:
    until = time.monotonic() + _GONE_S
    while (found := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
        await asyncio.sleep(0.01)
    return len(found)
