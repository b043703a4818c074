"""The dialects on the port. The first one's words are used where no route says otherwise."""

from __future__ import annotations

from aphrodite.engine.remote.supervisor import Supervisor
from aphrodite.server.admin import Admin
from aphrodite.server.anthropic.dialect import Anthropic
from aphrodite.server.dialect import Dialect
from aphrodite.server.kobold.dialect import Kobold
from aphrodite.server.ollama.dialect import Ollama
from aphrodite.server.openai.dialect import OpenAI
from aphrodite.server.operations import Operations
from aphrodite.server.responses.dialect import Responses


def apis() -> list[Dialect]:
    """Those that clients of models speak."""
    words = OpenAI()
    return [words, Responses(words), Anthropic(), Kobold(), Ollama()]


def dialects(supervisor: Supervisor) -> list[Dialect]:
    """All of them."""
    spoken = apis()
    return [*spoken, Operations(spoken[0], spoken), Admin(spoken[0], supervisor)]
