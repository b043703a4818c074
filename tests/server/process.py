"""`aphrodite run` as a user starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class Running:
    """A server's process."""

    popen: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def engine_pid(self) -> int:
        """Its only child."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        (pid,) = map(int, children)
        return pid

    @contextmanager
    def engine_stopped(self) -> Iterator[None]:
        """Its engine takes no step until the block ends."""
        pid = self.engine_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def ready(self, within_s: float = 60) -> float:
        """Wait until it is; how long that took."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            try:
                if httpx.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return time.monotonic() - began
            except httpx.TransportError:
                assert self.popen.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"not ready within {within_s} s: {self.log.read_text()}")

    def refuses(self) -> bool:
        """Whether it takes nothing new any more, for it is ending."""
        try:
            return httpx.get(f"{self.url}/ready").status_code == 503
        except httpx.TransportError:
            return True

    def answers(self) -> bool:
        """Whether the port takes connections."""
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def running(
    model: Path | str,
    log: Path,
    *flags: str,
    wait: bool = True,
    command: str = "run",
    python: str = sys.executable,
    before: Callable[[], object] | None = None,
) -> Iterator[Running]:
    """Start one, and end it. before: called in its process, while that is still ours."""
    port = free_port()
    with log.open("wb") as stream:
        popen = subprocess.Popen(
            [python, "-m", "aphrodite.cli.main", command, str(model), "--port", str(port), *flags],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=before,
        )
    found = Running(popen, port, log)
    try:
        if wait:
            found.ready()
        yield found
    finally:
        if popen.poll() is None:
            popen.send_signal(signal.SIGTERM)
            try:
                popen.wait(20)
            except subprocess.TimeoutExpired:
                popen.kill()


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
