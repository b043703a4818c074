"""`aphrodite env`: the machine, the packages and the plugins, fit to be pasted into a report."""

from __future__ import annotations

import dataclasses
import importlib.metadata as metadata
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from aphrodite._version import __version__
from aphrodite.cli.command import Call
from aphrodite.cli.output import document, print_document
from aphrodite.cli.scrub import Scrubber
from aphrodite.config import env
from aphrodite.config.engine import config_from
from aphrodite.platform.host_memory import host_memory
from aphrodite.resolve import find_plugins

_OURS = re.compile(r"^aphrodite[-_]")
_HUB = ("HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")  # of the hub client, which reads them
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def run(call: Call) -> int:
    """Print the report."""
    scrub = Scrubber(env.everything())
    content = scrub.all(
        {
            "aphrodite": __version__,
            "python": _python(),
            "machine": _machine(),
            "environment": _environment(scrub),
            "packages": dict(sorted(_packages())),
            "plugins": [dataclasses.asdict(report) for report in find_plugins(config_from(call.settings)).reports],
        }
    )
    if call.common.json:
        print_document(document(call.command, content))
        return 0
    print(f"aphrodite {content['aphrodite']}")
    for title in ("python", "machine", "environment", "packages"):
        print(f"\n{title}")
        for name, value in content[title].items():
            shown = name if title in ("environment", "packages") else name.replace("_", " ")
            print(f"  {shown:24} {'-' if value is None else value}")
    print("\nplugins")
    for report in content["plugins"]:
        print(f"  {report['name']:24} {report['state']} ({report['distribution']} {report['version']})")
        for name in ("reason", "hint"):
            if report[name]:
                print(f"  {'':24} {report[name]}")
        for device in report["devices"]:
            print(f"  {'':24} {device['device']}: {device['name']} {device['arch']}".rstrip())
    return 0


def _python() -> dict[str, Any]:
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "in_virtual_environment": sys.prefix != sys.base_prefix,
    }


def _machine() -> dict[str, Any]:
    memory = host_memory()
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "num_cpus": os.cpu_count(),
        "num_usable_cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else None,
        "memory_bytes": memory.total_bytes,
        "free_memory_bytes": memory.free_bytes,
    }


def _environment(scrub: Scrubber) -> dict[str, str | None]:
    """The variables that we, the hub client and thread pools read; of a secret one, that it is set."""
    values: Mapping[str, str] = env.everything()
    found: dict[str, str | None] = {}
    for name in (*env.VARIABLES, *_HUB, *_THREADS):
        value = values.get(name) or None
        found[name] = "set" if value is not None and scrub.is_secret(name) else value
    return found


def _packages() -> Iterator[tuple[str, str]]:
    """Our distributions and what they require, extras included, as far as it is installed. Reads metadata only."""
    todo = [name for dist in metadata.distributions() if (name := dist.name) and _OURS.match(name.lower())]
    seen: set[str] = set()
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            dist = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        yield name, dist.version
        if _OURS.match(name):  # what those require in turn says little and is long
            todo += [match[0] for line in dist.requires or [] if (match := re.match(r"[\w.-]+", line))]
