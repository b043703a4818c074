"""Processor time: what the clock shows where nothing else runs, and nearly the same where much does."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence

_ROUNDS = 7


def children_s() -> float:
    """That of all processes that this one has started and that have ended, with all that they have started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds_over_a_bare_interpreter(command: Sequence[str]) -> float:
    """That of a command less that of `python -c pass`: the best of several rounds, taken in turn."""

    def seconds(command: Sequence[str]) -> float:
        before = children_s()
        subprocess.run(command, check=True, capture_output=True)
        return children_s() - before

    rounds = [(seconds(command), seconds([sys.executable, "-c", "pass"])) for _ in range(_ROUNDS)]
    return min(ours for ours, _ in rounds) - min(bare for _, bare in rounds)
