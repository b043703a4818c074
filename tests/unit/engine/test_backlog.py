"""What waits to be read: when the engine is told to hold a request's sequences, and when to go on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import pytest

from aphrodite.engine.backlog import Backlog
from aphrodite.types.request import Request
from aphrodite.types.sampling_params import SamplingParams


class Told:
    """A client that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, list[str]]] = []

    def hold(self, request_ids: Iterable[str]) -> None:
        self.said.append(("hold", list(request_ids)))

    def release(self, request_ids: Iterable[str]) -> None:
        self.said.append(("release", list(request_ids)))


def backlog(client: Told, count: int, logprobs: int | None = None) -> Backlog:
    params = SamplingParams(logprobs=logprobs)
    requests = [Request(str(place), (1,), params, 0, frozenset(), 10) for place in range(count)]
    return Backlog(cast("Any", client), requests)


@pytest.mark.parametrize(
    ("count", "logprobs", "most"), [(1, None, 1024), (4, None, 1024), (1, 20, 48), (1, 0, 1024), (64, 20, 512)]
)
def test_all_of_a_requests_sequences_are_held_once_and_released_by_who_reads(
    count: int, logprobs: int | None, most: int
) -> None:
    client = Told()
    found = backlog(client, count, logprobs)
    names = [str(place) for place in range(count)]
    for _ in range(2):
        client.said.clear()
        for _ in range(most - 1):
            found.grow()
        assert not client.said
        for _ in range(5):  # steps in flight
            found.grow()
        assert client.said == [("hold", names)]
        found.clear()
        found.clear()
        assert client.said == [("hold", names), ("release", names)]


def test_who_wants_all_in_the_end_is_told_to_read_and_never_held() -> None:
    client = Told()
    found = backlog(client, 2)
    for _ in range(31):
        found.grow(may_hold=False)
    assert not found.is_worth_reading
    for _ in range(3000):
        found.grow(may_hold=False)
    assert found.is_worth_reading
    found.clear()
    assert not client.said and not found.is_worth_reading
