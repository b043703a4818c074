"""Graphs: eager first, captured when asked for again, never with a kernel that is not safe; the results are the same.

The capture here is FAKE: it keeps the function and calls it. What is real is the geometry: a graph is replayed with the
sizes that it was captured with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aphrodite import LLM, SamplingParams, resolve
from aphrodite.discovery.registry import PlatformEntry
from aphrodite.ops.kernel import Dims, Flag
from aphrodite.platform.torch_platform import SyncStream, TorchPlatform
from aphrodite.program.replay import BoundProgram
from aphrodite.runner.graphs import GraphReplay
from tests.support.checkpoints import Checkpoints

BOUNDS = Dims(T=64, S=8, R=8, U=8, max_q=64, max_k=512)
STREAM = SyncStream()


class Graphs:
    """Keeps functions in place of graphs."""

    kind = "capture"

    def __init__(self) -> None:
        self.replays = 0

    def capture(self, fn: Callable[[], None], stream: Any) -> object:
        assert stream is not None
        return fn

    def replay(self, handle: Any, stream: Any) -> None:
        self.replays += 1
        handle()


def program(flags: Flag) -> Any:
    """What GraphReplay asks of a bound Program: a plan with flags, and a replay that is noted."""
    seen: list[Dims] = []
    plan = SimpleNamespace(at=lambda dims: [SimpleNamespace(kernel=SimpleNamespace(flags=flags))])
    made = SimpleNamespace(plan=plan, replay=seen.append, seen=seen)
    return type("Program", (), {"__hash__": object.__hash__, **vars(made)})()


def test_a_size_runs_eagerly_twice_and_as_a_graph_from_then_on() -> None:
    graphs, one = Graphs(), program(Flag.CAPTURE_SAFE | Flag.ALLOCATES)
    replay = GraphReplay(graphs, STREAM, BOUNDS)
    for max_k in (10, 11, 12, 13):
        replay.replay(cast(BoundProgram, one), Dims(T=4, S=4, R=4, max_q=1, max_k=max_k))
    assert graphs.replays == 2 and replay.num_captured == 1
    assert [dims.max_k for dims in one.seen] == [10, 11, 512, 512], "a graph's geometry comes from bounds"
    replay.replay(cast(BoundProgram, one), Dims(T=8, S=8, R=8, max_q=1, max_k=13))
    assert graphs.replays == 2, "another size is another graph"


def test_a_step_with_a_kernel_that_is_not_safe_stays_eager() -> None:
    graphs, one = Graphs(), program(Flag.ALLOCATES)
    replay = GraphReplay(graphs, STREAM, BOUNDS)
    for _ in range(5):
        replay.replay(cast(BoundProgram, one), Dims(T=4, S=4, R=4))
    assert graphs.replays == 0 and replay.num_captured == 0 and len(one.seen) == 5


@pytest.mark.parametrize("graphs", [None, SimpleNamespace(kind="none"), SimpleNamespace(kind="compiled")])
def test_without_capture_everything_is_eager(graphs: Any) -> None:
    one = program(Flag.CAPTURE_SAFE)
    replay = GraphReplay(graphs, STREAM, BOUNDS)
    for _ in range(4):
        replay.replay(cast(BoundProgram, one), Dims(T=4))
    assert len(one.seen) == 4


def test_an_engine_on_graphs_gives_the_same_tokens(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded sizes, max_k at its bound, prompts of several lengths, random and greedy draws."""
    model = str(Checkpoints(tmp_path).llama())
    prompts = [[5] * 3, list(range(7, 60)), [9]]
    sampling = [SamplingParams(temperature=t, seed=s, max_tokens=20, logprobs=2) for s, t in enumerate((0.0, 1.0, 0.5))]
    settings: dict[str, Any] = {"max_num_batched_tokens": 16, "max_num_seqs": 4, "plugins": "none"}
    with LLM(model, **settings) as llm:
        expected = llm.generate(prompts, sampling)
    graphs = Graphs()
    honest = resolve._core_platform

    def capturing() -> PlatformEntry:
        entry = honest()

        def make(info: Any) -> TorchPlatform:
            plain = entry.factory(info)
            assert isinstance(plain, TorchPlatform)
            return replace(plain, graphs=graphs, limits=replace(plain.limits, pad=True))

        return replace(entry, factory=make)

    monkeypatch.setattr(resolve, "_core_platform", capturing)
    with LLM(model, **settings) as llm:
        found = llm.generate(prompts, sampling)
    assert graphs.replays > 20
    assert [o.outputs[0].token_ids for o in found] == [o.outputs[0].token_ids for o in expected]
