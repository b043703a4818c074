"""The environment variables that Aphrodite reads, all of them, in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

TARGET_DEVICE = "APHRODITE_TARGET_DEVICE"
PLUGINS = "APHRODITE_PLUGINS"
CACHE = "APHRODITE_CACHE"
API_KEYS = "APHRODITE_API_KEYS"


def target_device() -> str | None:
    """APHRODITE_TARGET_DEVICE: the device when neither argument nor flag names one."""
    return os.environ.get(TARGET_DEVICE) or None


def plugins() -> str:
    """APHRODITE_PLUGINS: the plugin policy when neither argument nor flag gives one."""
    return os.environ.get(PLUGINS, "")


def cache() -> Path | None:
    """APHRODITE_CACHE: folder for downloaded models; None: the hub client's own."""
    value = os.environ.get(CACHE)
    return Path(value).expanduser() if value else None


def api_keys() -> str | None:
    """APHRODITE_API_KEYS: keys that clients of the server must show, when no flag gives any."""
    return os.environ.get(API_KEYS) or None


def everything() -> Mapping[str, str]:
    """A copy of the environment, for plugin probes."""
    return dict(os.environ)
