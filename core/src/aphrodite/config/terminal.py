"""What the command line says beside its results. A library says nothing, so these are no settings of an engine."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.config import env
from aphrodite.config.engine import Section, setting

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class TerminalConfig(Section):
    """Progress and log, both on standard error."""

    quiet: bool = setting(False, "No progress bars, and no line of figures after an answer.", is_common=True)
    log_level: str = setting("warning", "Least level of what is logged.", choices=LOG_LEVELS, env=env.LOG)
