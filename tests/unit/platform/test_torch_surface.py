"""The whole of torch that the core uses outside the Programs: what an author's device must offer besides kernels.

Operations are seen where torch dispatches them. Those that a torch form of an operation (aphrodite/ops) calls belong to
the Program; everything else is the core's own, and is listed here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import aphrodite.ops
from aphrodite import SamplingParams
from aphrodite.build import assemble
from aphrodite.config.engine import config_from
from aphrodite.engine.card import card_of
from aphrodite.engine.requests import RequestMaker
from tests.unit.discovery.test_minimal_plugin import checkpoint

WHILE_RUNNING = {
    "aten.copy_",  # uploads and downloads
    "aten.slice",  # the step's part of a buffer (narrow)
    "aten.detach",  # a host tensor as a numpy array
    "aten.view",  # host results in their shape
}
WHEN_A_PROGRAM_IS_BOUND = {  # at start, and when a kind of sampling is first asked for
    "aten.empty",
    "aten.zeros",
    "aten.as_strided",
    "aten.select",
    "aten.slice",
    "aten.view",
}
FOR_WEIGHTS_AND_TABLES = {
    "aten._to_copy",
    "aten.cat",
    "aten.arange",
    "aten.copy_",
    "aten.cos",
    "aten.sin",
    "aten.mul",
    "aten.div",
    "aten.pow",
    "aten.reciprocal",
    "aten.unsqueeze",
    "aten.detach",
}
FORMS = str(Path(aphrodite.ops.__file__).parent)


class Surface(TorchDispatchMode):
    """Names of the operations called outside torch forms, without overloads."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: dict[str, int] = {}
        self.inside = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(file.startswith(FORMS) for file in _files()):
            self.inside += 1
        else:
            name = str(func).rpartition(".")[0]
            self.outside[name] = self.outside.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def _files() -> Iterator[str]:
    """Files of the functions that are running, from the innermost."""
    frame = sys._getframe(1)
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back  # type: ignore[assignment]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Surface]:
    """What was called while an engine started, ran for the first time, and ran again."""
    folder = checkpoint(tmp_path_factory.mktemp("model"))
    prompts = [[3, 14, 15, 9, 26, 5], [35], list(range(20))]
    kinds = [
        SamplingParams(temperature=0, max_tokens=5),
        SamplingParams(temperature=0.9, seed=3, max_tokens=6, logprobs=2),
        SamplingParams(temperature=0, max_tokens=4, prompt_logprobs=1),
    ]
    phases = {name: Surface() for name in ("start", "first", "again")}
    settings = {"max_model_len": 48, "num_blocks": 20, "max_num_batched_tokens": 9}
    with phases["start"]:  # torch watches the thread that asks it to, so the engine gets none of its own
        made = assemble(config_from({"model": str(folder), "device": "cpu", "plugins": "none", **settings}))
    requests = RequestMaker(card_of(made.blueprint), None)
    for name in ("first", "again"):
        with phases[name]:
            sequences = [made.engine.add(one.requests[0]) for one in requests.make_all(prompts, kinds)]
            while made.engine.has_work:
                made.engine.step()
            assert [seq.num_output for seq in sequences] == [5, 6, 4]
    made.engine.close()
    return phases


def test_a_running_engine_only_copies_and_cuts(seen: dict[str, Surface]) -> None:
    again = seen["again"]
    assert again.inside > 500 and again.outside["aten.copy_"] > 10, "there is something to see"
    assert set(again.outside) <= WHILE_RUNNING


def test_the_first_steps_also_bind_sampling(seen: dict[str, Surface]) -> None:
    assert set(seen["first"].outside) <= WHILE_RUNNING | WHEN_A_PROGRAM_IS_BOUND


def test_the_start_uses_about_25_operations_in_all(seen: dict[str, Surface]) -> None:
    listed = WHILE_RUNNING | WHEN_A_PROGRAM_IS_BOUND | FOR_WEIGHTS_AND_TABLES
    assert set(seen["start"].outside) <= listed
    assert len(listed) <= 25


def test_nothing_on_the_list_is_superfluous(seen: dict[str, Surface]) -> None:
    used = set().union(*(surface.outside for surface in seen.values()))
    listed = WHILE_RUNNING | WHEN_A_PROGRAM_IS_BOUND | FOR_WEIGHTS_AND_TABLES
    assert listed <= used, f"no longer used: {sorted(listed - used)}"


def test_the_mode_sees_what_it_should() -> None:
    with Surface() as surface:
        torch.ones(3).add_(1)
    assert set(surface.outside) == {"aten.ones", "aten.add_"}
