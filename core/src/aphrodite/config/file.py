"""The settings that a YAML file holds.

    model: ./my-model
    max_model_len: 32K
    sampling:
      temperature: 0.7

Settings stand at the top under the names that LLM(...) takes, sampling parameters under `sampling`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from aphrodite.config.layers import Given, make
from aphrodite.config.table import GROUPS, Entry, find_key, nearest
from aphrodite.errors import UsageError

_MAPPINGS = tuple(group.mapping for group in GROUPS if group.mapping)


def read_file(path: str) -> dict[Entry, Given]:
    """What a file gives, by entry. UsageError names a key that does not exist or stands twice, and its line.

    Values are checked by whoever uses them.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:  # also: no UTF-8, a NUL in the path, ~nobody
        raise UsageError(f"config {path!r} cannot be read: {error}", subject="config") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise UsageError(f"{path}{_where(error)}: this is no YAML: {_problem(error)}", subject="config") from None
    if node is None:
        return {}
    found = {}
    for key, value, line in _items(node, data, path):
        place = f"{path}:{line}"
        entry = find_key(key)
        if entry is None:
            raise UsageError(f"{place}: there is no setting {key!r}{_hint(key)}", subject=key)
        if entry in found:
            raise UsageError(f"{place}: {key} is another name of {entry.key}, which stands there already", subject=key)
        found[entry] = Given(entry.take(value), f"file {place}", place)
    return found


def check_unused(file: Mapping[Entry, Given], used: Mapping[Entry, Given]) -> list[Entry]:
    """The entries of a file that a command has no use for, their values checked all the same."""
    unused = {entry: given for entry, given in file.items() if entry not in used}
    for group in GROUPS:
        make(group, unused)
    return list(unused)


def _items(node: yaml.Node, data: Any, path: str, prefix: str = "") -> Iterator[tuple[str, Any, int]]:
    """(key, value, line) of a mapping and of those inside it; a key has dots where it stands inside one."""
    name = prefix.removesuffix(".")
    if not isinstance(node, yaml.MappingNode):
        what = name or "the file"
        place = f"{path}:{node.start_mark.line + 1}"
        raise UsageError(f"{place}: {what} must be a mapping of names to values, got {data!r}", subject="config")
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line, key = key_node.start_mark.line + 1, prefix + str(key_node.value)
        if key in seen:
            raise UsageError(f"{path}:{line}: {key} stands a second time, first in line {seen[key]}", subject=key)
        seen[key] = line
        value = data.get(key_node.value)
        if key in _MAPPINGS:
            if value is not None:
                yield from _items(value_node, value, path, f"{key}.")
        else:
            yield key, value, line


def _hint(key: str) -> str:
    """What may have been meant: a name near it, in Python or as a flag, in the same mapping or another."""
    if key in {group.name for group in GROUPS}:
        return "; settings stand at the top, without their group"
    keys: dict[str, str] = {}
    mapping, _, name = key.replace("-", "_").rpartition(".")
    entries = [entry for group in GROUPS for entry in group.entries if entry.key]
    entries.sort(key=lambda entry: str(entry.key).rpartition(".")[0] != mapping)  # those of the same mapping first
    for entry in entries:
        keys.setdefault(entry.name, str(entry.key))
        keys.setdefault((entry.flag or "").removeprefix("--").replace("-", "_"), str(entry.key))
    if name in keys:
        return f"; did you mean {keys[name]}?"
    return nearest(name, keys, keys) or "; `aphrodite --help all` lists them"


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark is not None else ""


def _problem(error: Exception) -> str:
    text = getattr(error, "problem", None) or str(error)
    return " ".join(text.split())
