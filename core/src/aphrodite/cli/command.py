"""What a command is: its words, its options, and the groups of settings that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from aphrodite.config.engine import SECTIONS, Section, setting
from aphrodite.config.layers import Given, make
from aphrodite.config.table import Entry, Group, options
from aphrodite.config.terminal import TerminalConfig
from aphrodite.types.sampling_params import SamplingParams


@dataclass(frozen=True)
class Common(Section):
    """What every command takes."""

    json: bool = setting(False, "Print one JSON document.")
    config: str | None = setting(None, "YAML file of settings; environment and flags go before it.", metavar="FILE")
    dump_config: bool = setting(False, "Print each value in effect with its origin, as YAML, and do nothing else.")


COMMON = Group("common", "what every command takes", None, Common, options(Common))


@dataclass(frozen=True)
class Command:
    """A command.

    name         one word or two, as the user types it
    module       in aphrodite.cli; its `run(call)` returns an exit code
    about        what it does, in a line
    description  what it does, in a few
    examples     what one would type after `aphrodite`
    options      what it alone takes
    groups       the settings that it takes, of the table
    defaults     of these, by name, where they are not the table's
    takes_model  whether it works on a model
    """

    name: str
    module: str
    about: str
    description: str
    examples: tuple[str, ...]
    options: type[Section]
    groups: tuple[Group, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    takes_model: bool = True

    @property
    def schema(self) -> str:
        """The name of its JSON document."""
        return f"aphrodite.{self.name.replace(' ', '.')}/1"

    @cached_property
    def own(self) -> Group:
        """Its options."""
        return Group("options", self.about, None, self.options, options(self.options))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All that it takes."""
        return tuple(entry for group in (self.own, COMMON, *self.groups) for entry in group.entries)


@dataclass(frozen=True)
class Call:
    """A command with what it was given, checked.

    options   of the command's own kind
    common    those of all commands
    values    of every setting it takes
    unused    settings of the file that it does not take
    """

    command: Command
    options: Any
    common: Common
    values: Mapping[Entry, Given]
    unused: tuple[Entry, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What LLM takes, the model among it; what nobody gave is left out."""
        engine = {group.name for group in self.command.groups} & set(SECTIONS)
        return {
            entry.name: self.values[entry].value
            for group in self.command.groups
            if group.name in engine
            for entry in group.entries
            if not self.values[entry].is_default
        }

    @property
    def model(self) -> str:
        """The model, "" if there is none."""
        return str(self.settings.get("model", ""))

    def sampling(self, **fixed: Any) -> SamplingParams:
        """The sampling parameters that were given, and those that the command fixes."""
        group = next(group for group in self.command.groups if group.name == "sampling")
        params: SamplingParams = make(group, self.values)
        return params.replace(**fixed) if fixed else params

    @property
    def quiet(self) -> bool:
        """Whether standard error is for errors alone."""
        return self._terminal.quiet

    @property
    def log_level(self) -> str:
        """The least level of what is logged."""
        return self._terminal.log_level

    @property
    def _terminal(self) -> TerminalConfig:
        group = next(group for group in self.command.groups if group.name == "terminal")
        config: TerminalConfig = make(group, self.values)
        return config
