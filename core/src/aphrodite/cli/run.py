"""`aphrodite run`: serve a model over HTTP."""

from __future__ import annotations

import argparse

from aphrodite.cli.flags import engine_settings, server_settings
from aphrodite.config import env
from aphrodite.config.engine import config_from
from aphrodite.config.server import ServerConfig


def run(args: argparse.Namespace) -> int:
    """Serve until told to end."""
    from aphrodite.engine.remote.spawn import Process
    from aphrodite.server import logs, start

    server = ServerConfig(**server_settings(args))
    config = start.engine_config(config_from({"model": args.model, **engine_settings(args)}), server)
    keys = start.keys_of(server, env.api_keys())
    start.check(server, keys[0])
    logs.set_up(server.log_format)
    process = Process.spawn(config)  # it loads while we are still importing
    try:
        from aphrodite.server.serve import run as serve

        return serve(config, server, process, keys)
    finally:
        process.kill()
