"""The end of a server that is told to end: what is under way is finished, what waits is refused."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from aphrodite.engine.remote.supervisor import Supervisor
from aphrodite.server.errors import draining
from aphrodite.server.service import Service

_LOG = logging.getLogger("aphrodite.server")
_CHECK_S = 0.05


class Insistence(Protocol):
    """Somebody who may ask for the end again."""

    async def insisted(self) -> None:
        """Until they do."""


async def drain(service: Service, supervisor: Supervisor, within_s: float, told: Insistence) -> None:
    """From now on requests are refused with 503, and /ready says so. Those that the engine has begun may end in that
    time, or until somebody insists; then they end with an error."""
    service.is_draining = True
    _LOG.info("draining: %d requests have %g s to end", len(service.runs), within_s)
    if supervisor.engine is not None:
        supervisor.engine.refuse_waiting(run.request_ids for run in service.runs)
    ended = asyncio.ensure_future(_ended(service))
    insisted = asyncio.ensure_future(told.insisted())
    await asyncio.wait((ended, insisted), timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    insisted.cancel()
    if service.runs:
        _LOG.warning("%d requests are broken off", len(service.runs))
        for run in list(service.runs):
            run.break_off(draining())
        await asyncio.sleep(_CHECK_S)  # their last frames are written


async def _ended(service: Service) -> None:
    while service.runs:
        await asyncio.sleep(_CHECK_S)
