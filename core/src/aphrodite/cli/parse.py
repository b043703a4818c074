"""From the words of a command line to a checked call. Flags are made from the table; none is written by hand."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from aphrodite.cli.command import COMMON, Call, Command
from aphrodite.cli.commands import COMMANDS
from aphrodite.config.layers import Given, layered, make
from aphrodite.config.table import Entry, Kind, nearest
from aphrodite.errors import UsageError


def find_command(words: Sequence[str]) -> tuple[Command, Sequence[str]]:
    """The command that the words open with, and the words behind it. UsageError if there is none."""
    for count in (2, 1):
        name = " ".join(words[:count])
        if command := next((command for command in COMMANDS if command.name == name), None):
            return command, words[count:]
    family = [command.name for command in COMMANDS if command.name.split()[0] == words[0]]
    if family:
        given = f", got {words[1]!r}" if len(words) > 1 else ""
        raise UsageError(f"{words[0]} needs one of {', '.join(name.split()[1] for name in family)}{given}")
    names = list(dict.fromkeys(command.name.split()[0] for command in COMMANDS))
    hint = nearest(words[0], names) or f"; there are {', '.join(names)}"
    raise UsageError(f"there is no command {words[0]!r}{hint}", subject="command")


class Words:
    """What a user typed behind a command, not looked into further than its spelling.

    texts       of each entry, in order; a switch has "on" or "off"
    help_topic  what --help asks for: "" is the first page, None no help
    """

    def __init__(self, command: Command, words: Sequence[str]) -> None:
        found, others = _parser(command).parse_known_args(list(words))
        arguments = [word for word in others if word != "--"]
        self.help_topic: str | None = found.help
        texts = {entry: getattr(found, entry.flag) for entry in command.entries if entry.flag}
        model = next((entry for entry in command.entries if not entry.flag), None)
        if model is not None and arguments and not arguments[0].startswith("-"):
            texts[model] = [arguments.pop(0)]
        if arguments and self.help_topic is None:
            stray = next((word for word in arguments if word.startswith("-")), arguments[0])
            raise UsageError(_stray(command, stray), subject=stray)
        self.texts: Mapping[Entry, list[str]] = {entry: given for entry, given in texts.items() if given}


def call(command: Command, words: Words) -> Call:
    """What the words mean with the environment and a file. UsageError names what is wrong with them."""
    flags = {entry: _given(entry, texts) for entry, texts in words.texts.items()}
    common = make(COMMON, flags)
    file: dict[Entry, Given] = {}
    if common.config is not None:
        from aphrodite.config.file import read_file  # brings the YAML reader, which most calls do without

        file = read_file(common.config)
    values = layered((e for group in command.groups for e in group.entries), file, flags, command.defaults)
    unused: tuple[Entry, ...] = ()
    if file:
        from aphrodite.config.file import check_unused

        unused = tuple(check_unused(file, values))
    for group in command.groups:
        make(group, values)
    return Call(command, make(command.own, flags), common, values, unused)


def _given(entry: Entry, texts: list[str]) -> Given:
    origin = f"flag {entry.flag}" if entry.flag else "argument"
    value: Any = texts[-1] == "on" if entry.kind is Kind.SWITCH else entry.read(texts)
    return Given(value, origin)


class _Parser(argparse.ArgumentParser):
    """Errors become ours, one line as all others."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):  # also of --prompt -x, where -x may have been meant as its value
            flag = message.split()[1].rstrip(":")
            message = f"{flag} needs a value; one that begins with - is written {flag}=-..."
        raise UsageError(f"{message}; see `{self.prog} --help`", subject="command line")


def _parser(command: Command) -> argparse.ArgumentParser:
    parser = _Parser(f"aphrodite {command.name}", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", nargs="?", const="")
    for entry in command.entries:
        if entry.flag is None:  # the model: a word that no flag asks for, wherever it stands
            continue
        if entry.kind is Kind.SWITCH:
            parser.add_argument(entry.flag, dest=entry.flag, action="append_const", const="on")
            parser.add_argument(f"--no-{entry.flag[2:]}", dest=entry.flag, action="append_const", const="off")
        else:
            parser.add_argument(entry.flag, *entry.aliases, dest=entry.flag, action="append", metavar=entry.metavar)
    return parser


def _stray(command: Command, word: str) -> str:
    """What is wrong with a word that nothing asked for."""
    if not word.startswith("-"):
        return f"{command.name} takes {'one MODEL' if command.takes_model else 'no argument'}, got also {word!r}"
    flag = word.partition("=")[0]
    known = [flag for entry in command.entries if entry.flag for flag in (entry.flag, *entry.aliases)]
    if flag in known:
        return f"{flag} stands behind --, where no flags are read"
    hint = nearest(flag, known) or f"; see `aphrodite {command.name} --help all`"
    elsewhere = [c.name for c in COMMANDS if c is not command and any(e.flag == flag for e in c.entries)]
    if elsewhere:
        hint = f"; it belongs to {', '.join(elsewhere)}"
    return f"{command.name} has no flag {flag}{hint}"
