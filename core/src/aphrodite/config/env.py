"""The environment variables that Aphrodite reads, all of them, in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping

TARGET_DEVICE = "APHRODITE_TARGET_DEVICE"
PLUGINS = "APHRODITE_PLUGINS"
API_KEYS = "APHRODITE_API_KEYS"
CACHE = "APHRODITE_CACHE"
LOG = "APHRODITE_LOG"

VARIABLES: Mapping[str, str] = {
    TARGET_DEVICE: "The device, as --device.",
    PLUGINS: "The plugins to use, as --plugins.",
    API_KEYS: "Keys that clients of `run` must show, as --api-keys.",
    CACHE: "Folder for models from the hub, as --download-dir.",
    LOG: "What the command line logs to standard error, as --log-level; a library never logs by itself.",
}


def value(name: str | None) -> str | None:
    """One of VARIABLES; None if it is not set, or empty, or there is no name."""
    assert name is None or name in VARIABLES, name
    return (os.environ.get(name) or None) if name is not None else None


def everything() -> Mapping[str, str]:
    """A copy of the environment, for plugin probes, and to know what is to be kept out of a report."""
    return dict(os.environ)
