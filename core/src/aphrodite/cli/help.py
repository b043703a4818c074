"""Pages of help, made from the table: a command's first page, a group, or what is said about a word."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from aphrodite.cli.command import COMMON, Command
from aphrodite.cli.commands import COMMANDS
from aphrodite.config import env
from aphrodite.config.table import GROUPS, Entry, Group, Kind, nearest
from aphrodite.errors import UsageError

ALL = "all"
_INDENT = 2
_COLUMN = 24
_WIDEST = 100
EXIT_CODES = "0 ok, 1 failed check, 2 wrong usage, 3 does not fit in memory, 4 model refused"


def overview() -> str:
    """`aphrodite --help`."""
    lines = ["usage: aphrodite COMMAND ...", ""]
    lines += _wrapped("An inference engine for Hugging Face compatible models.")
    lines += ["", "commands"]
    for command in COMMANDS:
        lines += _row(command.name, command.about)
    lines += ["", "help"]
    lines += _row("COMMAND --help", "A command's options, and the flags that are used most.")
    lines += _row("--help all", "Every flag; also behind a command.")
    lines += _row("--help GROUP", f"Those of {', '.join(group.name for group in GROUPS)}.")
    lines += _row("--help WORD", "Those whose name or text has the word.")
    lines += _row("--version", "The version.")
    lines += ["", "environment"]
    for name, about in env.VARIABLES.items():
        lines += _row(name, about, column=28)
    lines += ["", *_wrapped(f"exit codes: {EXIT_CODES}")]
    return "\n".join(lines) + "\n"


def family_page(commands: Sequence[Command]) -> str:
    """`aphrodite bench --help`: the commands that begin with one word."""
    word = commands[0].name.split()[0]
    lines = [f"usage: aphrodite {word} COMMAND ...", "", "commands"]
    for command in commands:
        lines += _row(command.name, command.about)
    lines += ["", *_wrapped(f"`aphrodite {commands[0].name} --help` shows its flags.")]
    return "\n".join(lines) + "\n"


def first_page(command: Command) -> str:
    """`aphrodite COMMAND --help`, at most 40 lines of 80 columns."""
    model = "[MODEL] " if command.takes_model else ""
    lines = [f"usage: aphrodite {command.name} {model}[flags]", "", *_wrapped(command.description), ""]
    entries = [entry for group in (command.own, *command.groups, COMMON) for entry in group.entries if entry.is_common]
    for entry in sorted(entries, key=lambda entry: entry.flag is not None):  # the model first
        lines += _row(_spelling(entry), f"{_first_clause(entry.doc)} {_facts(entry, command)}")
    more = [(group, sum(not entry.is_common for entry in group.entries)) for group in command.groups]
    if any(count for _, count in more):
        lines += ["", "more flags, by --help GROUP, --help WORD or --help all"]
        for group, count in more:
            if count:
                lines += _row(group.name, f"{group.about} ({count} more)")
    lines += ["", *(f"example: aphrodite {example}" for example in command.examples[:1])]
    return "\n".join(lines) + "\n"


def topic_page(topic: str, commands: Sequence[Command]) -> str:
    """`--help TOPIC`: "all", a group's name, a command's, else a word to look for. UsageError if nothing has it."""
    known = _groups(commands)
    if topic == ALL:
        return _listing(known, commands)
    if command := next((command for command in commands if topic == command.name), None):
        return first_page(command)
    if family := [command for command in commands if topic == command.name.split()[0]]:
        return family_page(family)
    if named := [group for group in known if group.name == topic]:
        return _listing(named, commands)
    found = [group.only(*(e.name for e in group.entries if _has(e, topic))) for group in known]
    if found := [group for group in found if group.entries]:
        return _listing(found, commands)
    words = {group.name for group in known} | {command.name for command in commands} | {ALL}
    for entry in (entry for group in known for entry in group.entries):
        words |= {entry.name, *re.findall(r"[a-z]{4,}", entry.doc.lower())}
    hint = nearest(topic.lower(), sorted(words)) or f"; groups are {', '.join(group.name for group in known)}"
    raise UsageError(f"no flag has to do with {topic!r}{hint}", subject="help")


def _groups(commands: Sequence[Command]) -> list[Group]:
    """What the commands take: the common options, theirs under their names, and of each group all that one of them
    takes."""
    own = [Group(command.name, command.about, None, command.options, command.own.entries) for command in commands]
    shared: dict[str, Group] = {}
    for group in (group for command in commands for group in command.groups):
        before = shared.setdefault(group.name, group).entries
        entries = (*before, *(entry for entry in group.entries if entry not in before))
        shared[group.name] = replace(group, entries=entries)
    return [group for group in (*own, COMMON, *shared.values()) if group.entries]


def _listing(groups: Iterable[Group], commands: Sequence[Command]) -> str:
    blocks = []
    for group in groups:
        lines = [f"{group.name}: {group.about}"]
        for entry in group.entries:
            legal = f" ({entry.legal})" if entry.legal and entry.kind is not Kind.SWITCH else ""
            doc = entry.doc.removesuffix(".") + legal + "."
            lines += _row(_spelling(entry), f"{doc} {_facts(entry, commands[0] if len(commands) == 1 else None)}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _has(entry: Entry, word: str) -> bool:
    """Whether an entry has to do with a word, however it is spelled."""
    plain = word.lower().lstrip("-").replace("-", "_")
    texts = (entry.name, entry.flag or "", *entry.aliases, entry.env or "", entry.key or "", entry.doc, entry.legal)
    return any(plain in text.lower().replace("-", "_") for text in texts)


def _spelling(entry: Entry) -> str:
    if entry.flag is None:
        return entry.metavar
    if entry.kind is Kind.SWITCH:
        return entry.flag if not entry.default else f"--no-{entry.flag[2:]}"
    return f"{entry.flag} {entry.metavar}"


def _facts(entry: Entry, command: Command | None) -> str:
    """[default 16; also --other; env APHRODITE_X; key sampling.max_tokens]"""
    facts = []
    if entry.flag is not None and not (entry.kind is Kind.SWITCH and entry.key is None):
        facts.append(f"default {entry.default_of(command.defaults if command else {})}")
    if entry.aliases:
        facts.append(f"also {', '.join(entry.aliases)}")
    if entry.env:
        facts.append(f"env {entry.env}")
    if entry.key:
        facts.append(f"key {entry.key}")
    return f"[{'; '.join(facts)}]" if facts else ""


def _first_clause(doc: str) -> str:
    return re.split(r"; |: |\. ", doc, maxsplit=1)[0].removesuffix(".") + "."


def _row(name: str, text: str, *, column: int = _COLUMN) -> Iterator[str]:
    """A name, and its text beside it, or below where the name is long."""
    room = _width() - column
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    head = " " * _INDENT + name
    if len(head) + 2 > column:
        yield head
        head = ""
    for line in lines:
        yield f"{head:{column}}{line}".rstrip()
        head = ""


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _width(), break_on_hyphens=False)


def _width() -> int:
    return max(60, min(shutil.get_terminal_size((80, 24)).columns, _WIDEST))
