"""`aphrodite run`: serve a model over HTTP."""

from __future__ import annotations

from aphrodite.cli.command import Call
from aphrodite.config.engine import config_from
from aphrodite.config.layers import make
from aphrodite.config.server import ServerConfig
from aphrodite.config.table import group
from aphrodite.engine.remote.signals import held_back


def run(call: Call) -> int:
    """Serve until told to end."""
    with held_back():  # until the server listens for them
        return _run(call)


def _run(call: Call) -> int:
    from aphrodite.engine.remote.spawn import Process
    from aphrodite.server import logs, start

    server: ServerConfig = make(group("server"), call.values)
    config = start.engine_config(config_from(call.settings), server)
    keys = start.keys_of(server)
    start.check(server, keys[0])
    logs.set_up(server.log_format, call.log_level)
    process = Process.spawn(config)  # it loads while we are still importing
    try:
        from aphrodite.server.serve import run as serve

        return serve(config, server, process, keys)
    finally:
        process.kill()
