"""The dialects on the port. The first one's words are used where no route says otherwise."""

from __future__ import annotations

from aphrodite.engine.remote.supervisor import Supervisor
from aphrodite.server.admin import Admin
from aphrodite.server.dialect import Dialect
from aphrodite.server.openai.dialect import OpenAI
from aphrodite.server.operations import Operations


def dialects(supervisor: Supervisor) -> list[Dialect]:
    """All of them."""
    words = OpenAI()
    spoken: list[Dialect] = [words]
    return [*spoken, Operations(words, spoken), Admin(words, supervisor)]
