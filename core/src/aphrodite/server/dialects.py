"""All APIs that one port answers."""

from __future__ import annotations

from aphrodite.server.anthropic.dialect import Anthropic
from aphrodite.server.dialect import Dialect
from aphrodite.server.kobold.dialect import Kobold
from aphrodite.server.ollama.dialect import Ollama
from aphrodite.server.openai.dialect import OpenAI
from aphrodite.server.operations import Operations


def all_dialects() -> tuple[Dialect, ...]:
    """The first one's words are used where no route is found."""
    words = OpenAI()
    apis: tuple[Dialect, ...] = (words, Anthropic(), Kobold(), Ollama())
    return (*apis, Operations(words, apis))
