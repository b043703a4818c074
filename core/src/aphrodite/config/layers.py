"""Default, file, environment, flag: which value counts, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aphrodite.config import env
from aphrodite.config.table import Entry, Group
from aphrodite.errors import UsageError

DEFAULT = "default"


@dataclass(frozen=True)
class Given:
    """A value and its origin. `place` stands before a message about it; "" where its name says enough."""

    value: Any
    origin: str
    place: str = ""

    @property
    def is_default(self) -> bool:
        """Whether nobody gave it."""
        return self.origin == DEFAULT


def layered(
    entries: Iterable[Entry], file: Mapping[Entry, Given], flags: Mapping[Entry, Given], defaults: Mapping[str, Any]
) -> dict[Entry, Given]:
    """The value of each entry that counts: a flag's, else the environment's, else the file's, else the default.

    defaults  of the command, by name, where they are not the table's
    """
    found = {}
    for entry in entries:
        given = flags.get(entry) or _from_environment(entry) or file.get(entry)
        if given is None and entry.name in defaults:
            given = Given(defaults[entry.name], "default of this command")
        found[entry] = given or Given(entry.default, DEFAULT)
    return found


def make(group: Group, values: Mapping[Entry, Given]) -> Any:
    """The checked section of a group, from those of its entries that somebody gave. UsageError names a wrong value, and
    where it stands if that is neither flag nor argument."""
    given = {entry: values[entry] for entry in group.entries if entry in values and not values[entry].is_default}
    try:
        return group.make(**{entry.name: one.value for entry, one in given.items()})
    except UsageError as error:
        place = next((one.place for entry, one in given.items() if entry.name == error.subject), "")
        raise UsageError(f"{place}: {error}" if place else str(error), subject=error.subject) from None


def _from_environment(entry: Entry) -> Given | None:
    text = env.value(entry.env)
    return None if text is None else Given(entry.read([text]), f"environment {entry.env}", f"{entry.env}")
