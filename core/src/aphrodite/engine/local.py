"""A model in this process: what LLM and AsyncEngine have in common."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from aphrodite.blueprint import Blueprint
from aphrodite.build import Assembled, assemble
from aphrodite.config.engine import EngineConfig, config_from
from aphrodite.engine.card import card_of
from aphrodite.engine.engine import Engine
from aphrodite.engine.frontend import Frontend
from aphrodite.engine.loop import EngineLoop
from aphrodite.types.progress import Progress


class LocalEngine:
    """An assembled engine on its own thread, and the front end for its model.

    Closed by `close`, when it is collected as garbage, or when the interpreter ends.
    """

    def __init__(self, model: str, progress: Progress | None, settings: Mapping[str, Any]) -> None:
        self.config: EngineConfig = config_from({"model": str(model), **settings})
        made: list[Assembled] = []

        def read(blueprint: Blueprint) -> None:  # a tokenizer that cannot be read is no reason to load weights first
            self.frontend = Frontend.of(card_of(blueprint))

        def make() -> Engine:
            made.append(assemble(self.config, progress, read))
            return made[0].engine

        self.loop = EngineLoop(make)
        self.engine: Engine = made[0].engine
        self.blueprint: Blueprint = made[0].blueprint
        self._finalizer = weakref.finalize(self, self.loop.close)

    def close(self) -> None:
        """Give back the device and its memory."""
        self._finalizer()
