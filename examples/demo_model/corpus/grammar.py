"""Templates with alternatives: "The {animal} [ran|walked [slowly|] ] home." One line says many sentences.

{name} is filled from a mapping, [a|b|c] is one of its alternatives, each a template itself. An alternative may be empty.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence

Node = str | tuple[str, ...] | list["Parts"]
Parts = list[Node]  # text as str, a field as a tuple of its name, a choice as a list of parts


@functools.lru_cache(1 << 14)  # texts with numbers in them pass through: do not keep them all
def parse(template: str) -> Parts:
    """The parts of a template, read once."""
    parts, end = _parse(template, 0, top=True)
    if end != len(template):
        raise ValueError(f"template {template!r} closes a bracket at {end} that it never opened")
    return parts


def _parse(text: str, at: int, *, top: bool) -> tuple[Parts, int]:
    parts: Parts = []
    start = at
    while at < len(text) and (top or text[at] not in "|]"):
        if text[at] not in "{[":
            at += 1
            continue
        if at > start:
            parts.append(text[start:at])
        if text[at] == "{":
            end = text.index("}", at)
            parts.append((text[at + 1 : end],))
            at = end + 1
        else:
            options: list[Parts] = []
            while text[at] != "]":
                option, at = _parse(text, at + 1, top=False)
                options.append(option)
                if at >= len(text):
                    raise ValueError(f"template {text!r} leaves a bracket open")
            parts.append(options)
            at += 1
        start = at
    if at > start:
        parts.append(text[start:at])
    return parts, at


def write(rng: random.Random, template: str, values: Mapping[str, str]) -> str:
    """One sentence of a template."""
    out: list[str] = []
    _write(rng, parse(template), values, out)
    return "".join(out)


def _write(rng: random.Random, parts: Parts, values: Mapping[str, str], out: list[str]) -> None:
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, tuple):
            out.append(values[part[0]])
        else:
            _write(rng, part[int(rng.random() * len(part))], values, out)


def any_of(rng: random.Random, items: Sequence[str]) -> str:
    """One of a list; random.choice at half the price."""
    return items[int(rng.random() * len(items))]


def with_article(noun: str) -> str:
    """ "a fox", "an owl"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """ "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
