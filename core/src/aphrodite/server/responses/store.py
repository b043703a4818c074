"""Responses that are kept, in memory and within bounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from aphrodite.server.run import Run

MAX_RESPONSES = 1024
MAX_BYTES = 64 << 20


@dataclass
class Kept:
    """A response.

    body      as a client reads it
    messages  the conversation that it ends, for the next to go on from
    items     what it was asked, that of the responses before it and these first
    tenant    who may read it
    run       while it is being made
    """

    body: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    items: Sequence[Mapping[str, Any]]
    tenant: str | None
    run: Run | None = field(default=None, repr=False)
    num_bytes: int = 0


class Store:
    """Keeps the responses that were used last."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self.num_bytes = 0

    def put(self, name: str, found: Kept) -> None:
        """Keep a response, in place of one of that name. The longest unused go; one that is too large is not kept."""
        self.drop(name)
        found.num_bytes = len(msgspec.json.encode([found.body, found.messages, found.items]))
        if found.num_bytes > self._max_bytes:
            return
        self._kept[name] = found
        self.num_bytes += found.num_bytes
        while len(self._kept) > self._max_responses or self.num_bytes > self._max_bytes:
            self.drop(next(iter(self._kept)))

    def get(self, name: str, tenant: str | None) -> Kept | None:
        """A response of this tenant."""
        found = self._kept.get(name)
        if found is None or found.tenant != tenant:
            return None
        self._kept.move_to_end(name)
        return found

    def drop(self, name: str) -> None:
        """Forget a response, if it is there."""
        found = self._kept.pop(name, None)
        if found is not None:
            self.num_bytes -= found.num_bytes

    def __len__(self) -> int:
        return len(self._kept)
