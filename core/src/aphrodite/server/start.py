"""What is settled before a server starts: settings that must agree, keys. Imports nothing that takes its time."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from aphrodite.config.engine import EngineConfig
from aphrodite.config.server import ServerConfig
from aphrodite.errors import UsageError
from aphrodite.server.keys import Keys, read_keys


def check(config: ServerConfig, keys: Keys) -> None:
    """UsageError for settings that do not go together."""
    if config.tensor_parallel_size != 1:
        raise UsageError(
            f"tensor_parallel_size must be 1, got {config.tensor_parallel_size}: a model runs on one device so far",
            subject="tensor_parallel_size",
        )
    if (config.ssl_keyfile is None) != (config.ssl_certfile is None):
        raise UsageError("ssl_keyfile and ssl_certfile belong together: pass both", subject="ssl_keyfile")
    if config.uds is None and not keys and not config.insecure and not _is_loopback(config.host):
        raise UsageError(
            f"host {config.host} can be reached from elsewhere, and no key is set: pass --api-keys, or --insecure if "
            "everybody may call",
            subject="host",
        )


def keys_of(config: ServerConfig) -> tuple[Keys, Keys]:
    """The keys of clients and of the administrator. UsageError if they cannot be read."""
    return Keys(read_keys(config.api_keys, "api_keys")), Keys(read_keys(config.admin_key, "admin_key"))


def engine_config(config: EngineConfig, server: ServerConfig) -> EngineConfig:
    """The engine's settings, with what the server's say about them."""
    if not server.single_user_mode:
        return config
    return replace(config, scheduler=replace(config.scheduler, max_num_seqs=1))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
