"""What a request gets depends on the request alone: among others, after preemption, on a warm cache, on every device.

Two things are compared. The tokens are those of the request alone on the plain core. And each of them is the one that
follows from Transformers' logits, in float64, of the text before it: the likeliest, or the largest sum of logit /
temperature and the published noise of (seed, position, child, token). A draw given its logits is exact; the logits are
not, since matrix products add in another order in another batch. So where the two best sums are closer than TIE, both
are right, and whoever drew the other reads another text from there on: the comparison of the two ends there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from aphrodite import LLM, SamplingParams
from aphrodite.sched.scheduler import Scheduler
from aphrodite.types.request import Sequence as EngineSequence
from tests.support.checkpoints import VOCAB_SIZE, Checkpoints
from tests.support.devices import DEVICES, block_size
from tests.support.parity import random_prompts
from tests.support.reference import Reference
from tests.unit.ops.test_sampling import noise

Load = Callable[..., Reference]
TIE = 1e-4  # float32 logits of these networks are nearer than that to float64's, a hundred times
NUM_TOKENS = 16
PREFIX = random_prompts((40,), seed=61)[0]
PROMPTS = [[*PREFIX, *random_prompts((9,), seed=62)[0]], random_prompts((33,), seed=63)[0]]
ASKED = {"greedy": {"temperature": 0.0}, "temperature 1": {"temperature": 1.0, "seed": 2**40 + 7}}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "attention_bias": True},
    "gemma3": {"family": "gemma3_text", "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
}


def engine(folder: Path, device: str, **settings: Any) -> LLM:
    """Steps are so small that prompts are cut."""
    size = {"max_model_len": 120, "max_num_batched_tokens": 70, "num_blocks": -(-4000 // block_size(device))}
    return LLM(str(folder), device=device, **{"dtype": "float32", **size, **settings})


def alone(llm: LLM, asked: SamplingParams) -> list[list[int]]:
    return [llm.generate([prompt], asked)[0].outputs[0].token_ids for prompt in PROMPTS]


def among_63_others(llm: LLM, asked: SamplingParams) -> list[list[int]]:
    """62 of all kinds and lengths, some of which share the prefix, and the other of our two; they come and go."""
    tails = random_prompts(range(1, 63), seed=64)
    crowd = [[*PREFIX[: 40 * (i % 2)], *tail] for i, tail in enumerate(tails)]
    theirs = [
        SamplingParams(temperature=i % 3 / 2, seed=i, max_tokens=1 + i % 20, ignore_eos=True, top_k=i % 5 * 10)
        for i in range(len(crowd))
    ]
    prompts = [PROMPTS[0], *crowd[:31], PROMPTS[1], *crowd[31:]]
    outputs = llm.generate(prompts, [asked, *theirs[:31], asked, *theirs[31:]])
    assert len(outputs) == 64
    return [outputs[place].outputs[0].token_ids for place in (0, 32)]


def warm(llm: LLM, asked: SamplingParams) -> list[list[int]]:
    alone(llm, asked)
    outputs = [llm.generate([prompt], asked)[0] for prompt in PROMPTS]
    assert all(output.num_cached_tokens >= len(output.prompt_token_ids) // 2 for output in outputs)
    return [output.outputs[0].token_ids for output in outputs]


def preempted(llm: LLM, asked: SamplingParams) -> list[list[int]]:
    """Taken off the device three times each, in the middle of the prompt and while it draws; the cache forgets."""
    seen: dict[str, EngineSequence] = {}
    schedule, ticks = Scheduler.schedule, iter(range(10**6))

    def spy(self: Scheduler) -> Any:
        seen.update((seq.request.request_id, seq) for seq in self.live())
        victim = min(self._lifecycle.running, key=lambda seq: seq.num_preemptions, default=None)
        if victim is not None and victim.num_preemptions < 3 and next(ticks) % 2 == 1:
            self._lifecycle.preempt(victim)
            self.reset_prefix_cache()
            self.check()
        return schedule(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "schedule", spy)
        outputs = llm.generate(PROMPTS, asked)
    assert min(seq.num_preemptions for seq in seen.values()) == 3
    return [output.outputs[0].token_ids for output in outputs]


CONDITIONS = (alone, among_63_others, warm, preempted)


@functools.cache
def gumbel(seed: int, position: int) -> torch.Tensor:
    return torch.from_numpy(noise(seed, position, 0, VOCAB_SIZE))


def check_draws(reference: Reference, prompt: Sequence[int], tokens: Sequence[int], asked: SamplingParams) -> list[int]:
    """Every token follows from Transformers' logits; the places where another one would have followed too."""
    truth = reference.logprobs([*prompt, *tokens])
    ties = []
    for place, token in enumerate(tokens):
        position = len(prompt) + place
        sums = truth[position - 1]
        if asked.temperature:
            assert asked.seed is not None
            sums = sums / asked.temperature + gumbel(asked.seed, position)
        best = sums.topk(2).values
        assert best[0] - sums[token] <= TIE, f"token {place} is {token}, {int(sums.argmax())} follows from the logits"
        if best[0] - best[1] <= TIE:
            ties.append(place)
    return ties


@pytest.fixture(scope="module", params=CONFIGS)
def subject(request: pytest.FixtureRequest, checkpoints: Checkpoints) -> Path:
    return checkpoints.make(**CONFIGS[request.param], seed=21)


@pytest.fixture(scope="module")
def llms(subject: Path) -> Iterator[Callable[[str], LLM]]:
    made: dict[str, LLM] = {}

    def get(device: str) -> LLM:
        if device not in made:
            plain = {"plugins": "none", "enable_prefix_caching": False}
            made[device] = engine(subject, "cpu", **plain) if device == "plain" else engine(subject, device)
        made[device].reset_prefix_cache()
        return made[device]

    yield get
    for llm in made.values():
        llm.close()


@pytest.fixture(scope="module")
def expected(llms: Callable[[str], LLM]) -> Callable[[SamplingParams], list[list[int]]]:
    """What the plain core gives to each request alone."""
    return functools.cache(lambda asked: alone(llms("plain"), asked))


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ASKED)
def test_a_request_gives_the_same_tokens_whatever_happens_around_it(
    name: str,
    device: str,
    condition: Callable[..., list[list[int]]],
    subject: Path,
    llms: Any,
    expected: Any,
    reference: Load,
) -> None:
    asked = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True, **ASKED[name])
    found = condition(llms(device), asked)
    for prompt, tokens, wanted in zip(PROMPTS, found, expected(asked), strict=True):
        assert len(tokens) == len(wanted) == NUM_TOKENS
        ties = check_draws(reference(subject), prompt, tokens, asked)
        end = ties[0] if ties else NUM_TOKENS
        assert tokens[:end] == wanted[:end]


def test_these_requests_have_no_ties(subject: Path, expected: Any, reference: Load) -> None:
    # else the test above would compare little
    for params in ASKED.values():
        asked = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True, **params)
        for prompt, tokens in zip(PROMPTS, expected(asked), strict=True):
            assert not check_draws(reference(subject), prompt, tokens, asked)
