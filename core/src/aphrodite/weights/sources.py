"""Models that distributions bring, by short name: `demo` is the folder that aphrodite-demo installs.

A distribution names its models in the entry-point group `aphrodite.model_sources`; each entry is an attribute that
holds the path of a Hugging Face folder:

    [project.entry-points."aphrodite.model_sources"]
    demo = "aphrodite_demo:DEMO"
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from aphrodite.errors import ModelError

GROUP = "aphrodite.model_sources"
# Names of ours, so that who has not installed them hears how to, and the distribution of each.
OURS: Mapping[str, str] = MappingProxyType({"demo": "aphrodite-demo", "demo-draft": "aphrodite-demo"})


def installed() -> dict[str, list[metadata.EntryPoint]]:
    """The entry points of each short name; a right name has one. Reads metadata, imports nothing."""
    found: dict[str, list[metadata.EntryPoint]] = {}
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: (entry.name, _owner(entry))):
        found.setdefault(entry.name, []).append(entry)
    return found


def folder_of(name: str) -> Path | None:
    """The folder of an installed model; None if no distribution has that name.

    Imports the module that holds the path and nothing else. Raises ModelError, naming the distributions, if several
    have the name, or the one that has it gives no folder with a config.json.
    """
    entries = installed().get(name, [])
    if not entries:
        return None
    if len(entries) > 1:
        owners = " and ".join(_owner(entry) for entry in entries)
        raise ModelError(
            f"model {name!r} is brought by {owners}: uninstall one of them, or pass the folder", subject=name
        )
    (entry,) = entries
    try:
        given = entry.load()
        folder = Path(os.fspath(given))
        is_model = (folder / "config.json").is_file()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # its module is another's code: whatever it raises is its own affair
        raise _broken(entry, f"{type(error).__name__}: {_first_line(error)}") from error
    if not is_model:
        raise _broken(entry, f"{folder} is no folder with a config.json")
    return folder.absolute()


def _broken(entry: metadata.EntryPoint, reason: str) -> ModelError:
    owner = _owner(entry)
    return ModelError(
        f"model {entry.name!r} of {owner} is broken: its entry point {entry.value!r}: {reason}: "
        "install that distribution anew, or pass a folder",
        subject=entry.name,
    )


def _owner(entry: metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")
