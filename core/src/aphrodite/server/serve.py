"""The server's life: sockets, the engine, signals, the end.

engine's process starts -> bind, listen (the model loads) -> ready ... SIGTERM -> drain -> exit
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from aphrodite.config.engine import EngineConfig
from aphrodite.config.server import ServerConfig
from aphrodite.engine.remote.messages import Ready
from aphrodite.engine.remote.signals import let_through
from aphrodite.engine.remote.spawn import Process
from aphrodite.engine.remote.supervisor import Supervisor, SupervisorSettings
from aphrodite.errors import told
from aphrodite.server.body import Limits
from aphrodite.server.dialects import dialects
from aphrodite.server.drain import drain
from aphrodite.server.keys import Keys
from aphrodite.server.listener import Listener
from aphrodite.server.logs import AccessLog
from aphrodite.server.metrics import Metrics
from aphrodite.server.service import Service, ServiceSettings
from aphrodite.server.site import Site, SiteSettings
from aphrodite.server.sockets import Sockets, bound

_LOG = logging.getLogger("aphrodite.server")


def run(config: EngineConfig, server: ServerConfig, process: Process, keys: tuple[Keys, Keys]) -> int:
    """Serve until a signal says otherwise; gives the command's exit code."""
    raise_file_limit()
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):  # there is none for some systems
        import uvloop

        new_loop = uvloop.new_event_loop
    with bound(server) as sockets, asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_serve(config, server, process, keys, sockets))


async def _serve(
    config: EngineConfig,
    server: ServerConfig,
    process: Process,
    keys: tuple[Keys, Keys],
    sockets: Sockets,
) -> int:
    names = tuple(filter(None, (server.served_model_name or shown_name(config.model.model)).split(",")))
    metrics = Metrics(names[0], compat=server.metrics_compat == "vllm")
    supervisor = Supervisor(
        config,
        SupervisorSettings(stall_s=server.engine_stall),
        process,
        on_ready=lambda ready: _tell_ready(ready, service),
    )
    settings = ServiceSettings(
        names,
        config.scheduler.max_num_seqs + server.max_queue,
        server.max_queue_tokens,
        server.max_prompt_logprobs,
        server.max_output_logprobs,
        server.request_timeout or None,
        server.strict_params,
        server.chat_template,
        server.tool_call_parser,
        server.reasoning_parser,
    )
    service = Service(supervisor, settings, metrics)
    metrics.stats = lambda: supervisor.stats
    metrics.queue = lambda: (service.admission.num_taken, service.admission.limit, supervisor.num_restarts)
    log = AccessLog(is_on=server.log_requests)
    origins = tuple(filter(None, server.allowed_origins.split(",")))
    limits = Limits(body_bytes=server.max_body_bytes)
    site_settings = SiteSettings(*keys, limits, origins, server.root_path.rstrip("/"))
    spoken = dialects(supervisor)
    listeners = [Listener(Site(service, spoken, site_settings, log), sockets.public, tls=sockets.tls)]
    if sockets.admin is not None:
        site = Site(service, spoken, replace(site_settings, is_admin=True), log)
        listeners.append(Listener(site, [sockets.admin]))
    for listener in listeners:
        await listener.start()
    _LOG.info("listening on %s", sockets.addresses)
    try:
        with _signals() as told:
            keeper = asyncio.ensure_future(supervisor.run())
            stop = asyncio.ensure_future(told.wait())
            await asyncio.wait((keeper, stop), return_when=asyncio.FIRST_COMPLETED)
            if keeper.done():
                keeper.result()
                _LOG.error("the server ends: there is no engine")
                code = supervisor.exit_code or 1
            else:
                code = 0
                await drain(service, supervisor, server.shutdown_timeout, told)
            for listener in listeners:
                await listener.stop(0.5)
            await supervisor.close()
            stop.cancel()
            await asyncio.wait((keeper,), timeout=1.0)
            return code
    finally:
        service.close()


class Told:
    """Counts the signals that ask for an end."""

    def __init__(self) -> None:
        self._count = 0
        self._first, self._second = asyncio.Event(), asyncio.Event()

    def tell(self) -> None:
        """One more."""
        self._count += 1
        (self._first if self._count == 1 else self._second).set()

    async def wait(self) -> None:
        """Until the first."""
        await self._first.wait()

    async def insisted(self) -> None:
        """Until the second."""
        await self._second.wait()


@contextlib.contextmanager
def _signals() -> Iterator[Told]:
    told = Told()
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # the terminal is gone, and nobody has said `nohup`
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, told.tell)
    let_through()
    try:
        yield told
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # the end has begun: one that comes now asks for what happens anyway


def raise_file_limit() -> None:
    """Each connection takes a file; the soft limit is often 1024, and the hard one is what the administrator meant."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def shown_name(model: str) -> str:
    """What a model is called that was given as a folder or a name on the hub: of a folder its own name."""
    path = Path(model)
    return path.resolve().name if path.exists() else model


def _tell_ready(ready: Ready, service: Service) -> None:
    try:
        reading = service.reading(service.model).selection.reasons
    except Exception as error:  # chats will fail, and nothing else
        reading = {}
        _LOG.warning("how answers are to be read is not known: %s", told(error))
    for name, reason in (*ready.reasons.items(), *reading.items()):
        _LOG.info("%s: %s", name, reason)
    for note in ready.notes:
        _LOG.info("%s", note)
    gc.freeze()  # what stands now stays: no stream waits while all of it is looked at again
    _LOG.info("ready: sequences of up to %d tokens, %d at a time", ready.card.max_model_len, ready.max_num_seqs)
