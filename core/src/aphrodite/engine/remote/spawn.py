"""Starting an engine's process, and hearing of its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import IO

from aphrodite.config.engine import EngineConfig
from aphrodite.engine.remote.messages import VERSION, Start, packed
from aphrodite.engine.remote.signals import held_back

COMMAND = (sys.executable, "-m", "aphrodite.engine.remote.process")
_LOG = logging.getLogger("aphrodite.engine")
_KILL_S = 0.5  # in which the system has taken away what was killed
_KEPT_LINES = 20
_KEPT_CHARS = 500
_FAULT_LINES = 3
_FAULT = "Fatal Python error: "


@dataclass
class Process:
    """An engine's process.

    sock    our end of its socket
    lines   the last that it wrote on standard error; all of them are passed on to our log
    fault   where native code has crashed, if it has: what kind of fault, and the innermost lines of Python
    """

    popen: subprocess.Popen[bytes]
    sock: socket.socket
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    fault: str = ""
    _code: Future[int] = field(default_factory=Future)

    @classmethod
    def spawn(cls, config: EngineConfig, command: Sequence[str] = COMMAND) -> Process:
        """Start one, and tell it what to build. Its command gets the number of its socket as its last argument.

        OSError or RuntimeError if the system has no process, no file or no thread for it.
        """
        ours, theirs = socket.socketpair()
        popen: subprocess.Popen[bytes] | None = None
        try:
            ours.sendall(packed(Start(VERSION, config)))
            with theirs, held_back():  # until it has said that it ignores them (`process.main`)
                popen = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # our standard output is for what a command prints
                    stderr=subprocess.PIPE,
                    start_new_session=False,
                )
            ours.setblocking(False)
            found = cls(popen, ours)
            threading.Thread(target=found._pass_on, args=(popen.stderr,), daemon=True).start()
        except BaseException:  # also a signal that has waited for it
            ours.close()
            if popen is not None:
                popen.kill()
                popen.communicate()
            raise
        return found

    def _pass_on(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                text = line.decode(errors="replace").rstrip()
                self.lines.append(text[:_KEPT_CHARS])
                self._look_for_fault(text[:_KEPT_CHARS].strip())
                _LOG.info("%s", text)
        self._code.set_result(self.popen.wait())

    def _look_for_fault(self, line: str) -> None:
        """What matters of what faulthandler writes: in native code, the innermost lines of Python are its callers'."""
        if line.startswith(_FAULT):
            self.fault = line.removeprefix(_FAULT)
        elif self.fault and line.startswith("File ") and self.fault.count("; File ") < _FAULT_LINES:
            self.fault = f"{self.fault}; {line}"

    async def ended(self) -> int:
        """Wait for its end; its exit code, negative for a signal. Starts no thread: there may be no memory for one."""
        return await asyncio.shield(asyncio.wrap_future(self._code))

    def kill(self) -> None:
        """End it at once."""
        if self.popen.poll() is None:
            self.popen.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(_KILL_S)


def described(code: int) -> str:
    """What an exit code says, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
