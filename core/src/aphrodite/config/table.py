"""The one table: every setting and parameter with its name in Python, in files, as a flag and in the environment.

It is made from the dataclasses that declare them (the sections of EngineConfig, SamplingParams, a command's options),
so nothing is written twice: flags, help, keys of files and the documentation all read it. A new section is a dataclass
of `setting` fields and a line in GROUPS.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, replace
from typing import Any

from aphrodite.config.engine import AUTO, SECTIONS, Section
from aphrodite.config.numbers import integer
from aphrodite.config.server import ServerConfig
from aphrodite.config.terminal import TerminalConfig
from aphrodite.errors import UsageError
from aphrodite.types.sampling_params import Items, Rule, SamplingParams, parameters

NONE = "none"  # how a flag spells None, where that is a value of its own


class Kind(enum.Enum):
    """How a value is spelled as text."""

    SWITCH = "--name or --no-name"
    INTEGER = "32, 32k, 32K"
    NUMBER = "0.5"
    TEXT = "as it is"
    TEXTS = "as it is; each time the flag stands"
    IDS = "1,15,7"
    BIASES = "15=-100,7=2.5"
    RULES = "rms_norm=acme.*,reference; each time the flag stands"


@dataclass(frozen=True, eq=False)  # each is itself, and may be a key
class Entry:
    """A setting or parameter.

    name     in Python
    key      in a file, with the mapping it stands in: "sampling.seed"; None: it stands in none
    flag     on the command line, None for the model, which needs none
    env      its environment variable, None for most
    legal    what it may be, in words, where its kind does not say it
    default  as Python has it
    unset    what an empty default means
    aliases  other flags for the same
    is_secret  whether its value is never shown
    """

    name: str
    key: str | None
    flag: str | None
    env: str | None
    kind: Kind
    doc: str
    legal: str
    default: Any
    metavar: str
    is_common: bool
    unset: str = NONE
    aliases: tuple[str, ...] = ()
    is_secret: bool = False

    def read(self, texts: Sequence[str]) -> Any:
        """The value that a flag's or a variable's texts spell, one a time that it was given; the last one counts where
        there can be one alone. What is no spelling comes back as text, for the check that knows what is legal."""
        if self.kind is Kind.TEXTS:
            return tuple(texts)
        if self.kind is Kind.RULES:
            return dict(_rule(self.name, text) for text in texts)
        text = texts[-1]
        if text.lower() == NONE and self._may_be_none:
            return None
        if self.kind is Kind.INTEGER:
            return integer(text)
        if self.kind is Kind.NUMBER:
            return _number(text)
        if self.kind is Kind.IDS:
            return _all_or(text, (integer(part) for part in text.split(",")))
        if self.kind is Kind.BIASES:
            return _all_or(text, (_bias(part) for part in text.split(",")))
        return text

    def take(self, value: Any) -> Any:
        """A value from a file, where a number may be spelled as in a flag: "32K", "1e-5" (a text to YAML)."""
        spelled = isinstance(value, str) and self.kind in (Kind.INTEGER, Kind.NUMBER)
        return self.read([value]) if spelled else value

    def default_of(self, other: Mapping[str, Any]) -> str:
        """The default as a flag would spell it, or a command's in `other`."""
        default = other.get(self.name, self.default)
        if self.kind is Kind.SWITCH:
            return "on" if default else "off"
        if default is None and self.kind in (Kind.INTEGER, Kind.NUMBER) and not self._may_be_none:
            return AUTO
        return str(default) if default not in (None, "", (), {}) else self.unset

    @property
    def _may_be_none(self) -> bool:
        return self.legal.endswith(" or None")


@dataclass(frozen=True)
class Group:
    """Entries that are shown, and checked, together.

    name     what `--help NAME` calls it
    about    what its entries are about, in a line
    mapping  the key of a file under which its entries stand; None: at the top
    make     checks their values, by name; UsageError names a wrong one
    """

    name: str
    about: str
    mapping: str | None
    make: type[Any]
    entries: tuple[Entry, ...]

    def only(self, *names: str) -> Group:
        """These entries alone."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.name in names))

    def without(self, *names: str) -> Group:
        """All but these entries."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.name not in names))


def options(section: type[Section]) -> tuple[Entry, ...]:
    """What a command alone takes: it has no key in files."""
    return tuple(_setting(item, is_in_files=False) for item in section.settings())


def section_group(name: str, about: str, section: type[Section]) -> Group:
    """The group of a section of settings, which stand at the top of a file."""
    return Group(name, about, None, section, tuple(_setting(item) for item in section.settings()))


def find_key(key: str) -> Entry | None:
    """The entry of a file's key, as "seed" or "sampling.seed"."""
    flag = flag_of(key)  # its other names are written down as flags
    found = (entry for group in GROUPS for entry in group.entries if entry.key)
    return next((entry for entry in found if entry.key == key or (key.isidentifier() and flag in entry.aliases)), None)


def nearest(word: str, known: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """ "; did you mean ...?", or "" if nothing is near. `shown`: what to call what is known, if not that."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.65)
    names = dict.fromkeys(shown[name] if shown is not None else name for name in near)
    return f"; did you mean {' or '.join(names)}?" if names else ""


def flag_of(name: str) -> str:
    """The flag of a name in Python."""
    return "--" + name.replace("_", "-")


def _setting(item: Field[Any], *, is_in_files: bool = True) -> Entry:
    meta, type_name = item.metadata, str(item.type)
    kind = _kind(type_name)
    low, high = meta.get("low", 1 if kind is Kind.INTEGER else None), meta.get("high")
    legal = ""
    if "above" in meta:
        legal = f"above {meta['above']}" + ("" if high is None else f", to {high}")
    elif low is not None:
        legal = f"at least {low}" if high is None else f"{low} to {high}"
    if "choices" in meta:
        legal = ", ".join(meta["choices"])
    return Entry(
        name=item.name,
        key=item.name if is_in_files else None,
        flag=None if item.name == "model" else flag_of(meta.get("flag", item.name)),
        env=meta.get("env"),
        kind=kind,
        doc=meta["doc"],
        legal=legal,
        default={} if item.default is MISSING else item.default,
        metavar=meta.get("metavar") or _metavar(kind, meta.get("choices", ())),
        is_common=meta.get("is_common", not is_in_files),
        unset=meta.get("unset", NONE),
        aliases=tuple(map(flag_of, meta.get("aliases", ()))),
        is_secret=meta.get("is_secret", False),
    )


def _kind(type_name: str) -> Kind:
    for part, kind in (
        ("bool", Kind.SWITCH),
        ("int", Kind.INTEGER),
        ("float", Kind.NUMBER),
        ("Mapping", Kind.RULES),
        ("tuple", Kind.TEXTS),
    ):
        if type_name.startswith(part):
            return kind
    return Kind.TEXT


def _metavar(kind: Kind, choices: Sequence[str]) -> str:
    if choices:
        shown = "|".join(choices)
        return shown if len(shown) <= 20 else "NAME"
    names = {Kind.INTEGER: "N", Kind.NUMBER: "X", Kind.IDS: "ID,...", Kind.BIASES: "ID=BIAS,...", Kind.RULES: "OP=LIST"}
    return names.get(kind, "TEXT")


_COMMON_PARAMETERS = frozenset({"max_tokens", "temperature", "seed"})


def _parameter(item: Field[Any]) -> Entry:
    rule: Rule = item.metadata["rule"]
    kinds = {bool: Kind.SWITCH, int: Kind.INTEGER, float: Kind.NUMBER}
    lists = {Items.IDS: Kind.IDS, Items.TEXTS: Kind.TEXTS, Items.BIASES: Kind.BIASES}
    kind = lists[rule.items] if rule.items is not None else kinds[rule.kind]
    return Entry(
        name=item.name,
        key=f"sampling.{item.name}",
        flag=flag_of(item.name),
        env=None,
        kind=kind,
        doc=item.metadata["doc"],
        legal="" if kind is Kind.SWITCH else rule.legal + (" or None" if rule.optional else ""),
        default=item.metadata["default"],
        metavar=_metavar(kind, ()),
        is_common=item.name in _COMMON_PARAMETERS,
    )


_ABOUT = {
    "model": "which model, and how it is read",
    "device": "where it runs, with which plugins and kernels",
    "cache": "the paged KV cache",
    "scheduler": "how much a step may hold, and who goes first",
}

GROUPS: tuple[Group, ...] = (
    Group(
        "sampling",
        "how tokens are drawn, and when a request ends",
        "sampling",
        SamplingParams,
        tuple(_parameter(item) for item in parameters()),
    ),
    *(section_group(name, _ABOUT[name], section) for name, section in SECTIONS.items()),
    section_group("server", "where the server listens, who may call, how much it takes on", ServerConfig),
    section_group("terminal", "what the command line says beside its results", TerminalConfig),
)


def group(name: str) -> Group:
    """One of GROUPS."""
    return next(group for group in GROUPS if group.name == name)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _bias(text: str) -> tuple[int, float] | str:
    """ID=BIAS as a pair."""
    token, _, bias = text.partition("=")
    pair = (integer(token), _number(bias))
    return pair if type(pair[0]) is int and type(pair[1]) is float else text  # type: ignore[return-value]


def _all_or(text: str, parts: Iterable[Any]) -> Any:
    """All parts, unless one of them is still text: then the whole text, which a message will show."""
    found = tuple(parts)
    return text if any(isinstance(part, str) for part in found) else found


def _rule(name: str, text: str) -> tuple[str, tuple[str, ...]]:
    """rms_norm=acme.*,reference as a pair."""
    op, sign, providers = text.partition("=")
    if not sign or not op or not providers:
        raise UsageError(f"{name} must have the form operation=provider,provider, got {text!r}", subject=name)
    return op, tuple(providers.split(","))
