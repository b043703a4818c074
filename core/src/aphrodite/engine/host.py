"""Where a server's engine is, and how it fares. It may come, go and come again; the server stays."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from aphrodite.engine.client import EngineClient
from aphrodite.engine.frontend import Frontend
from aphrodite.errors import EngineDied


class Health(enum.Enum):
    """How an engine fares."""

    LOADING = "loading"  # for the first time
    READY = "ready"
    STALLED = "stalled"  # it is there, and its steps have stopped
    RESTARTING = "restarting"  # it was lost
    FAILED = "failed"  # it will not come again


@dataclass(frozen=True)
class Model:
    """A model that answers: the engine's client, and what tokenises for it."""

    client: EngineClient
    frontend: Frontend


class Host(Protocol):
    """Keeps an engine."""

    @property
    def health(self) -> Health:
        """How it fares now."""

    @property
    def model(self) -> Model | None:
        """What answers; None while nothing does."""

    @property
    def last_failure(self) -> EngineDied | None:
        """Why it was lost, the last time that it was."""

    @property
    def num_restarts(self) -> int:
        """How often it was started again."""


@dataclass(frozen=True)
class FixedHost:
    """An engine that was there before the server, and whose keeper is somebody else."""

    model: Model | None
    health: Health = Health.READY
    last_failure: EngineDied | None = None
    num_restarts: int = 0
