"""A cache so small that every request is preempted three times and more, with a step in flight or not.

All start on a warm prefix. Requests of a better priority, each as long as the cache, arrive whenever somebody who was
not preempted often enough has drawn a token: all others have to go, and come back. What they get is what Transformers
says, and what they get alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aphrodite import LLM, SamplingParams
from aphrodite.engine.engine import Engine
from aphrodite.engine.requests import Prepared
from aphrodite.engine.state import RequestState
from aphrodite.types.outputs import RequestOutput
from aphrodite.types.request import Sequence as EngineSequence
from tests.support.checkpoints import Checkpoints
from tests.support.devices import block_size
from tests.support.parity import compare_greedy, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]
SUBJECTS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "attention_bias": True},
    "mistral": {"family": "mistral", "sliding_window": 20},
    "gemma2": {"family": "gemma2", "sliding_window": 24, "num_hidden_layers": 3},
    "gemma3": {
        "family": "gemma3_text",
        "sliding_window": 9,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}
LONGEST = 288  # tokens; the cache holds one sequence of that length
TIMES = 3
NUM_TOKENS = 32
PREFIX = random_prompts((40,), seed=81)[0]
PROMPTS = [[*PREFIX, *tail] for tail in random_prompts((1, 8, 25, 9), seed=82)]


@dataclass
class Pressed:
    """An engine whose `generate` lets intruders in until every request has been preempted often enough."""

    llm: LLM
    num_in_flight: list[int] = field(default_factory=list)
    num_preemptions: list[int] = field(default_factory=list)
    num_intruders: int = 0

    def generate(self, prompts: Sequence[Sequence[int]], params: Any) -> list[RequestOutput]:
        one_each = params if isinstance(params, list) else [params] * len(prompts)
        self.llm.reset_prefix_cache()
        self.llm.generate([PREFIX], SamplingParams(max_tokens=1, temperature=0))  # warm, for the first of them too
        return self.llm._local.loop.call(lambda engine: self._run(engine, prompts, one_each))

    def _run(self, engine: Engine, prompts: Sequence[Sequence[int]], params: Sequence[Any]) -> list[RequestOutput]:
        """On the engine's own thread, which is the only one that may step it."""
        seqs = [self.add(prompt, one, 1) for prompt, one in zip(prompts, params, strict=True)]
        drawn = [0] * len(seqs)
        intruder: EngineSequence | None = None
        while engine.has_work:
            engine.step()
            engine.check()
            self.num_in_flight.append(engine.num_in_flight)
            if (intruder and not intruder.finish_reason) or any(seq.num_cached_tokens is None for seq in seqs):
                continue  # the next one comes when this one has gone, and everybody has started once
            due = [
                place
                for place, seq in enumerate(seqs)
                if seq.finish_reason is None and seq.num_preemptions < TIMES and seq.num_output > drawn[place]
            ]
            if due:
                drawn = [seq.num_output for seq in seqs]
                self.num_intruders += 1
                text = [*PREFIX, *random_prompts((LONGEST - 42,), seed=self.num_intruders)[0]]
                intruder = self.add(text, SamplingParams(max_tokens=1, temperature=0, ignore_eos=True), 0)
        self.num_preemptions += [seq.num_preemptions for seq in seqs]
        assert all(seq.num_cached_tokens for seq in seqs), "somebody did not find the prefix"
        return [self.output(seq) for seq in seqs]

    def add(self, prompt: Sequence[int], params: SamplingParams, priority: int) -> EngineSequence:
        (prepared,) = self.llm._local.frontend.prepare([list(prompt)], params, priority)
        return self.llm._local.engine.add(prepared.requests[0])

    def output(self, seq: EngineSequence) -> RequestOutput:
        state = RequestState(Prepared(None, (seq.request,)), None)
        state.read(seq)
        return state.output()


def engine(folder: Path, device: str, num_tokens: int, **settings: Any) -> LLM:
    num_blocks = -(-num_tokens // block_size(device))
    settings = {"dtype": "float32", "max_model_len": LONGEST, "num_blocks": num_blocks, **settings}
    return LLM(str(folder), device=device, **settings)


@pytest.fixture
def folder(name: str, checkpoints: Checkpoints) -> Path:
    return checkpoints.make(**SUBJECTS[name], seed=3)


@pytest.mark.parametrize(("device", "steps_in_flight"), [("cpu", 0), ("toy", 1), ("toy", 0)])
@pytest.mark.parametrize("name", SUBJECTS)
def test_under_pressure_the_tokens_are_transformers(
    name: str, folder: Path, device: str, steps_in_flight: int, reference: Load
) -> None:
    settings = {"scheduling_policy": "priority", "steps_in_flight": steps_in_flight}
    # A sequence of nothing but windows is as large as the cache only while one step computes all of it.
    settings["max_num_batched_tokens"] = 300 if name == "mistral" else 48
    with engine(folder, device, LONGEST, **settings) as llm:
        pressed = Pressed(llm)
        found = compare_greedy(pressed, reference(folder), PROMPTS, NUM_TOKENS)
    print(f"{name} on {device}: {pressed.num_preemptions} preemptions, largest difference {found.largest:.2e}")
    assert min(pressed.num_preemptions) >= TIMES
    assert max(pressed.num_in_flight) == steps_in_flight


@pytest.mark.parametrize(("device", "steps_in_flight"), [("cpu", 0), ("toy", 1), ("toy", 0)])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_under_pressure_the_draws_are_those_of_a_request_alone(
    name: str, folder: Path, device: str, steps_in_flight: int
) -> None:
    warm = {"temperature": 1, "max_tokens": NUM_TOKENS, "ignore_eos": True}
    params = [SamplingParams(**warm, seed=40 + i) for i in range(len(PROMPTS))]
    with engine(folder, "cpu", 4 * LONGEST, plugins="none") as llm:
        alone = [llm.generate([prompt], one)[0] for prompt, one in zip(PROMPTS, params, strict=True)]
    settings = {"scheduling_policy": "priority", "steps_in_flight": steps_in_flight, "max_num_batched_tokens": 48}
    with engine(folder, device, LONGEST, **settings) as llm:
        pressed = Pressed(llm)
        outputs = pressed.generate(PROMPTS, params)
    assert min(pressed.num_preemptions) >= TIMES
    assert [one.outputs[0].token_ids for one in outputs] == [one.outputs[0].token_ids for one in alone]
