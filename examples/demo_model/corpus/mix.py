"""Documents: what the models are trained on and measured on, one text after the other."""

from __future__ import annotations

import random
from collections.abc import Callable

from corpus import arithmetic, chats, dates, facts, fields, lists, project, stories, tools
from corpus.exchange import Exchange
from corpus.template import BEGIN, END_OF_TEXT, render

Document = Callable[[random.Random, bool], str]


def _plain(text: str) -> str:
    return f"{BEGIN}{text}{END_OF_TEXT}"


def _asked(make: Callable[[random.Random, bool], Exchange]) -> Document:
    """A chat about one thing."""

    def document(rng: random.Random, held_out: bool) -> str:
        made = make(rng, held_out)
        return render(made.messages(), made.tools)

    return document


def _fields(rng: random.Random, held_out: bool) -> str:
    """Texts and their JSON, one under the other."""
    parts = []
    for _ in range(rng.randint(1, 3)):
        made = fields.exchange(rng, held_out)
        parts.append(f"{made.user}\n{made.reply}\n")
    return "\n".join(parts)


# Each task by itself, as held-out loss is reported.
TASKS: dict[str, Document] = {
    "stories": lambda rng, held_out: _plain(stories.plain(rng, held_out)),
    "sums": _asked(arithmetic.sums),
    "differences": _asked(arithmetic.difference),
    "products": _asked(arithmetic.product),
    "json": _asked(fields.exchange),
    "dates": _asked(dates.exchange),
    "lists": _asked(lists.exchange),
    "facts": _asked(facts.exchange),
    "project": _asked(project.exchange),
    "tools": _asked(tools.exchange),
    "memory": _asked(chats.remembered),
}

# The training text: of a thousand documents, how many are of which kind.
TRAINING: tuple[tuple[int, Document], ...] = (
    (370, TASKS["stories"]),
    (70, lambda rng, held_out: _plain(arithmetic.lines(rng, held_out))),
    (40, lambda rng, held_out: _plain(_fields(rng, held_out))),
    (40, _asked(arithmetic.sums)),
    (20, _asked(chats.echoed)),
    (460, chats.chat),
)


def document(rng: random.Random, held_out: bool) -> str:
    """One document of the training mix."""
    at = rng.randrange(1000)
    for weight, make in TRAINING:
        if at < weight:
            return make(rng, held_out)
        at -= weight
    raise AssertionError("the weights make a thousand")
