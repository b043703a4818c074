"""A thousand clients that send a byte a second: they are let go of in time, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.server.process import Running, running
from tests.support.checkpoints import Checkpoints
from tests.support.waiting import until

NUM_SOCKETS = 1000
_OTHER_FILES = 200
HEAD_S = 10.0
REQUEST = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nx-filler: " + b"x" * 64


@contextmanager
def many_files() -> Iterator[int]:
    """How many sockets there may be: a thousand, or as many as the system has files for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = NUM_SOCKETS + _OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    try:
        yield allowed - _OTHER_FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Dripper(asyncio.Protocol):
    """Sends a byte of a request every second; notes what comes back, and when it is over."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent
        self.received = b""
        self.began_s = time.monotonic()
        self.num_sent = 0  # a byte a second, of those in which this process ran
        self.closed_s: float | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.drip(0)

    def drip(self, place: int) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(self._sent[place : place + 1])
            self.num_sent += 1
            asyncio.get_running_loop().call_later(1.0, self.drip, place + 1)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed_s = time.monotonic()


async def first_token_s(client: httpx.AsyncClient) -> float:
    """From a request to its first token."""
    began = time.monotonic()
    asked = {"prompt": "the engine", "max_tokens": 2, "temperature": 0, "stream": True}
    async with client.stream("POST", "/v1/completions", json=asked) as answer:
        assert answer.status_code == 200
        async for _ in answer.aiter_bytes():
            return time.monotonic() - began
    raise AssertionError("there was no token")


async def drip(server: Running, count: int) -> tuple[list[Dripper], list[float], list[float]]:
    """All of them at once; what they saw, and the times to the first token before and meanwhile."""
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        before = [await first_token_s(client) for _ in range(40)][10:]
        drippers = [Dripper(REQUEST) for _ in range(count)]
        for start in range(0, count, 50):
            some = drippers[start : start + 50]
            await asyncio.gather(*(loop.create_connection(lambda d=d: d, "127.0.0.1", server.port) for d in some))
        meanwhile: list[float] = []
        deadline = loop.time() + HEAD_S + 30
        while any(one.closed_s is None for one in drippers) and loop.time() < deadline:
            meanwhile.append(await first_token_s(client))
            await asyncio.sleep(0.05)
        return drippers, before, meanwhile


@pytest.mark.slow
def test_a_thousand_slow_senders_are_let_go_of_and_hold_up_nobody(checkpoints: Checkpoints, tmp_path: Path) -> None:
    model = checkpoints.llama(seed=35, num_hidden_layers=1)
    with many_files() as count, running(model, tmp_path / "log", "--device", "cpu", "--num-blocks", "64") as server:
        assert count >= 100, "too few to mean anything: raise the hard limit of open files"
        files = len(os.listdir(f"/proc/{server.popen.pid}/fd"))
        drippers, before, meanwhile = asyncio.run(drip(server, count))
        assert all(one.closed_s is not None for one in drippers), "somebody is still there"
        took = [one.closed_s - one.began_s for one in drippers if one.closed_s is not None]
        assert max(one.num_sent for one in drippers) < HEAD_S + 1.5 and min(took) > HEAD_S - 2
        assert all(one.received.startswith(b"HTTP/1.1 408 ") for one in drippers)
        worst = [statistics.quantiles(times, n=10)[8] for times in (before, meanwhile)]  # one stall is the machine's
        medians = [statistics.median(times) for times in (before, meanwhile)]
        print(f"to the first token, ms: median {[t * 1e3 for t in medians]}, p90 {[t * 1e3 for t in worst]}")
        assert len(meanwhile) > 40
        assert medians[1] < 2 * medians[0] + 0.01 and worst[1] < 2 * worst[0] + 0.1
        until(lambda: len(os.listdir(f"/proc/{server.popen.pid}/fd")) <= files + 2)
        assert httpx.get(f"{server.url}/health").status_code == 200
