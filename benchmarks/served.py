"""A server as a user starts it, for programs that abuse it: its process, raw requests, whether its books balance."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import platform
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODEL = "demo-draft"
CANARY = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
_END_S = 60


class Server:
    """`aphrodite run` of a small model, and what it says of itself.

    flags   behind the model's name
    log     where what it writes goes; None: nowhere
    log_requests  whether that has a line for each request
    python  of an environment that has this project's packages
    """

    def __init__(
        self,
        *flags: str,
        model: str = MODEL,
        log: Path | None = None,
        log_requests: bool = False,
        python: str = sys.executable,
    ) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        command = [python, "-m", "aphrodite.cli.main", "run", model, "--port", str(self.port)]
        written = subprocess.DEVNULL if log is None else os.open(log, os.O_WRONLY | os.O_CREAT)
        said = "--log-requests" if log_requests else "--no-log-requests"
        self.popen = subprocess.Popen([*command, said, *flags], stdout=written, stderr=written)
        if log is not None:
            os.close(written)
        self.canary = ""

    @property
    def engine_pid(self) -> int:
        """The engine's process."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        return int(children[0])

    def end(self) -> int:
        """Ask it to; its exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(_END_S)

    async def get(self, path: str) -> tuple[int, bytes]:
        """A route's status and body."""
        return await ask(self.port, b"GET %s HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" % path.encode())

    async def complete(self, **asked: Any) -> tuple[int, Any]:
        """An answer's status and content."""
        status, body = await ask(self.port, posted(json.dumps(asked).encode()))
        return status, json.loads(body)

    async def ready(self, within_s: float = 60.0, *, canary: bool = True) -> float:
        """Wait until it is; how long that took. The first time, what the canary says is kept, if it is asked."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            try:
                if (await self.get("/ready"))[0] == 200:
                    took = time.monotonic() - began
                    if canary:
                        self.canary = self.canary or await self._sung()
                    return took
            except OSError:
                pass
            await asyncio.sleep(0.02)
        raise RuntimeError(f"not ready within {within_s} s")

    async def gauges(self) -> dict[str, float]:
        """aphrodite:* by name."""
        lines = (await self.get("/metrics"))[1].decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("aphrodite:")]
        return {name.partition("{")[0].removeprefix("aphrodite:"): float(value) for name, value in pairs}

    async def in_use(self) -> list[str]:
        """Requests and blocks that somebody holds, in words."""
        found = await self.gauges()
        kinds = ("in_flight", "running", "waiting", "held")
        names = (*(f"num_requests_{kind}" for kind in kinds), "kv_blocks_leaked")
        held = [f"{name} is {found[name]:g}" for name in names if found[name]]
        if found["kv_blocks_free"] != found["kv_blocks_total"]:
            held.append(f"{found['kv_blocks_free']:g} of {found['kv_blocks_total']:g} blocks are free")
        return held

    async def wrong(self, within_s: float = 10.0) -> list[str]:
        """What is not as it was before; nothing, in a while, if all is well."""
        deadline = time.monotonic() + within_s
        held = ["never asked"]
        while held and time.monotonic() < deadline:
            await asyncio.sleep(1.1)  # the engine tells of itself once a second
            held = await self.in_use()
        if await self._sung() != self.canary:
            held.append("the canary's answer has changed")
        return held

    async def _sung(self) -> str:
        status, answer = await self.complete(**CANARY)
        return str(answer["choices"][0]["text"]) if status == 200 else f"{status} for the canary"

    def memory_bytes(self) -> dict[str, int]:
        """Resident bytes of both processes."""
        found = {}
        for name, pid in (("server", self.popen.pid), ("engine", self.engine_pid)):
            found[name] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return found


def posted(body: bytes, path: bytes = b"/v1/completions", *, key: str = "none", request_id: str = "") -> bytes:
    """A request with a JSON body."""
    named = b"x-request-id: %s\r\n" % request_id.encode() if request_id else b""
    return (
        b"POST %s HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n"
        b"x-api-key: %s\r\n%scontent-length: %d\r\n\r\n%s" % (path, key.encode(), named, len(body), body)
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


def circumstances() -> dict[str, Any]:
    """Where, when and of what these figures are."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {
        "machine": {"machine": platform.machine(), "processor": _processor(), "cores": len(os.sched_getaffinity(0))},
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "command": shlex.join(["python", *(Path(w).name if Path(w).is_absolute() else w for w in sys.argv)]),
        "model": MODEL,
    }


def _processor() -> str:
    """Its name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
