"""Keeps an engine's process: starts it, tells why it was lost, starts it again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aphrodite.config.engine import EngineConfig
from aphrodite.engine.frontend import Frontend
from aphrodite.engine.host import Health, Model
from aphrodite.engine.remote.client import RemoteEngine
from aphrodite.engine.remote.messages import Dying, Ready, error_of
from aphrodite.engine.remote.spawn import COMMAND, Process, described
from aphrodite.errors import AphroditeError, EngineDied, told
from aphrodite.types.model_card import ModelCard
from aphrodite.types.stats import EngineStats

_LOG = logging.getLogger("aphrodite.server")
_STALL_S = 25.0  # without a pulse: steps have stopped
_MOST_FAILED_STARTS = 3  # in a row
_LONG_S = 60.0  # nothing can break off what a plugin does, and nobody else would know
_FIRST_PHASE = "its plugins, and the files of the model"
_CODE_S = 2.0  # what an exit code may take to be known after the socket has closed
_END_S = 1.0  # what an engine may take to end when it is told to
_AGAIN_S = (1.0, 30.0)  # first and longest wait for what a process needs and the system does not give
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS)
_NUM_SPARE_FILES = 8  # as many as the start of a process takes


@dataclass(frozen=True)
class SupervisorSettings:
    """stall_s  seconds without a sign of its steps after which an engine counts as stalled."""

    command: Sequence[str] = COMMAND
    stall_s: float = _STALL_S


class Supervisor:
    """A `Host` whose engine lives in another process. Run `run` as a task; it ends when `close` is called, or when the
    engine cannot be had: the first load has failed, or several in a row."""

    def __init__(
        self,
        config: EngineConfig,
        settings: SupervisorSettings,
        first: Process | None = None,
        *,
        on_ready: Callable[[Ready], None] = lambda ready: None,
    ) -> None:
        """first  a process that was started already, so that it could load while this one was still importing."""
        self._config = config
        self._settings = settings
        self._process = first
        self._engine: RemoteEngine | None = None
        self._model: Model | None = None
        self._health = Health.LOADING
        self._frontend: Frontend | None = None
        self._is_reading = asyncio.Lock()
        self._phase = _FIRST_PHASE  # of a load
        self._spare: list[int] = []  # files that are for the next process
        self._early: asyncio.Future[Frontend | None] | None = None  # what reads while weights are loaded
        self._on_ready = on_ready
        self.is_closing = False
        self.last_failure: EngineDied | None = None
        self.num_restarts = 0
        self.exit_code = 0  # for the command, once it has failed

    @property
    def model(self) -> Model | None:
        """What answers."""
        return self._model

    @property
    def health(self) -> Health:
        """How the engine fares."""
        engine = self._engine
        if self._health is not Health.READY or engine is None:
            return self._health
        silent_s = time.monotonic() - engine.last_pulse_s
        return Health.STALLED if silent_s > self._settings.stall_s else Health.READY

    @property
    def stats(self) -> EngineStats:
        """How full the engine is; all 0 while there is none."""
        return self._engine.stats if self._engine is not None and self._model is not None else EngineStats()

    @property
    def engine(self) -> RemoteEngine | None:
        """The client of the engine that answers; None while there is none."""
        return self._engine if self._model is not None else None

    async def run(self) -> None:
        """Keep the engine until `close`, or until it cannot be had."""
        failed_starts = 0
        self._open_spare()
        while not self.is_closing:
            was_ready = await self._one_life()
            failed_starts = 0 if was_ready else failed_starts + 1
            if (not was_ready and self.num_restarts == 0) or failed_starts >= _MOST_FAILED_STARTS:
                self._health = Health.FAILED
                return
            if not self.is_closing:
                self._health = Health.RESTARTING
                self.num_restarts += 1
                _LOG.warning("the engine is started again (%d)", self.num_restarts)

    async def close(self) -> None:
        """End the engine."""
        self.is_closing = True
        process, self._model = self._process, None
        if self._engine is not None:
            self._engine.close()
        if process is not None:
            try:
                await asyncio.wait_for(process.ended(), _END_S)
            except TimeoutError:
                process.kill()
        self._close_spare()

    async def _spawned(self) -> Process | None:
        """A new process. Waits for as long as the system has no file, memory or thread for it: clients may hold them.
        None if it fails otherwise, or is wanted no more."""
        again_s = _AGAIN_S[0]
        while not self.is_closing:
            self._close_spare()
            try:
                return Process.spawn(self._config, self._settings.command)
            except (OSError, RuntimeError) as error:
                self.last_failure = EngineDied(f"the engine's process cannot be started: {told(error)}")
                _LOG.error("%s", self.last_failure)
                if isinstance(error, OSError) and error.errno not in _PASSING:
                    self.exit_code = 1
                    return None
            finally:
                if not self.is_closing:
                    self._open_spare()
            await asyncio.sleep(again_s)
            again_s = min(2 * again_s, _AGAIN_S[1])
        return None

    def _open_spare(self) -> None:
        """Hold files that nobody else can take, for the next start."""
        with contextlib.suppress(OSError):
            while len(self._spare) < _NUM_SPARE_FILES:
                self._spare.append(os.open(os.devnull, os.O_RDONLY))

    def _close_spare(self) -> None:
        while self._spare:
            os.close(self._spare.pop())

    async def _one_life(self) -> bool:
        """From the start of a process to its end. Whether it has ever been ready."""
        process = self._process or await self._spawned()
        if process is None:
            return False
        self._process = process
        ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        engine = RemoteEngine(
            loop,
            on_ready=ready.set_result,
            on_loading=self._loading,
            on_drawn=lambda card: self._drawn(engine, card),
        )
        self._engine = engine
        await loop.create_connection(lambda: engine, sock=process.sock)
        self._phase = _FIRST_PHASE
        while not (await asyncio.wait((ready, engine.lost), timeout=_LONG_S, return_when=asyncio.FIRST_COMPLETED))[0]:
            _LOG.warning("the engine has been silent for %g s while it loads; it is at: %s", _LONG_S, self._phase)
        if ready.done():
            await self._begin(engine, ready.result())
        await engine.lost
        was_ready, self._model = self._model is not None, None
        self._process = None
        if self.is_closing:
            return was_ready
        self._health = Health.RESTARTING if was_ready else self._health
        self.last_failure = await self._failure_of(process, engine)
        _LOG.error("%s", self.last_failure)
        engine.fail(self.last_failure)
        return was_ready

    async def _begin(self, engine: RemoteEngine, found: Ready) -> None:
        """The engine is ready: give it to those who ask."""
        frontend = await self._read(engine, found.card)
        if frontend is not None and not engine.lost.done():
            self._model = Model(engine, frontend)
            self._health = Health.READY
            self._on_ready(found)

    def _loading(self, label: str) -> None:
        self._phase = label
        _LOG.info("%s", label)

    def _drawn(self, engine: RemoteEngine, card: ModelCard) -> None:
        """Read the tokenizer while weights are loaded: if it cannot be, there is no need for them."""
        self._early = asyncio.ensure_future(self._read(engine, card))

    async def _read(self, engine: RemoteEngine, card: ModelCard) -> Frontend | None:
        """The front end for a model, once for all its engines, with its tokenizer, which is read on another thread: it
        may be large. None if it cannot be read: then the engine is let go of."""
        async with self._is_reading:
            if self._frontend is None or self._frontend.card != card:
                try:
                    self._frontend = await asyncio.to_thread(Frontend.of, card)
                except (asyncio.CancelledError, KeyboardInterrupt):
                    raise
                except BaseException as error:  # what a library makes of a file from strangers; Rust's panics too
                    engine.dying = Dying(error_of(error), error.exit_code if isinstance(error, AphroditeError) else 1)
                    engine.close()
                    return None
            return self._frontend

    async def _failure_of(self, process: Process, engine: RemoteEngine) -> EngineDied:
        """Why a process has ended: its own words, else the signal or code and what it wrote last."""
        try:
            code = await asyncio.wait_for(process.ended(), _CODE_S)
        except TimeoutError:
            process.kill()
            code = -9
        self.exit_code = code if code > 0 else 1
        if engine.dying is not None:
            error = engine.dying.error
            self.exit_code = engine.dying.exit_code
            what = error.message if error.kind == "internal" else f"{error.kind}: {error.message}"
            return EngineDied(f"the engine's process has ended: {what}", subject=code)
        said = f"; its last line was: {process.lines[-1]}" if process.lines else ""
        if process.fault:
            said = f": {process.fault}"
        elif code == 0:
            said += "; that is not how it ends by itself: has a plugin's code ended it?"
        return EngineDied(f"the engine's process {described(code)}{said}", subject=code)
