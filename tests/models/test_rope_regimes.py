"""Longrope beyond its original length: a sequence has short factors or long ones by its own current length.

The truth is Transformers reading the whole text anew for every token, without a cache: with a cache it would keep keys
of the short factors beside those of the long ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from aphrodite import LLM, SamplingParams
from aphrodite.engine.engine import Engine
from aphrodite.errors import UsageError
from aphrodite.sched.lifecycle import Lifecycle
from aphrodite.types.outputs import CompletionOutput
from tests.support.checkpoints import EOS, Checkpoints
from tests.support.engines import engine, watch_preemption
from tests.support.parity import TOLERANCE, TOP, Differences, ParityError, check_position, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]
ORIGINAL = 50
NUM_TOKENS = 7
LENGTHS = (1, 45, 49, 50, 51, 120)  # far below, on the way, one below, exactly at, one above, far above
CROSSING = 3  # of these: the last of seven tokens is never read
PROMPTS = random_prompts(LENGTHS, seed=91)


def longrope(dim: int, original: int = ORIGINAL) -> dict[str, Any]:
    """LongRoPE for `dim` rotated dimensions, with factors that are far from one another."""
    return {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "original_max_position_embeddings": original,
        "short_factor": [1 + 0.2 * i for i in range(dim // 2)],
        "long_factor": [2.0 + i for i in range(dim // 2)],
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "rope_parameters": longrope(16)},
    "phi3, a part of each head": {
        "family": "phi3",
        "num_attention_heads": 2,
        "partial_rotary_factor": 0.75,
        "rope_parameters": longrope(24),
        "original_max_position_embeddings": ORIGINAL,
    },
    "mistral, nothing but windows": {"family": "mistral", "sliding_window": 20, "rope_parameters": longrope(16)},
    "gemma3, each kind of layer with a boundary of its own": {
        "family": "gemma3_text",
        "num_hidden_layers": 3,
        "sliding_window": 11,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {"full_attention": longrope(16), "sliding_attention": longrope(16, ORIGINAL + 3)},
    },
}


def check_steps(
    reference: Reference, prompt: Sequence[int], completion: CompletionOutput, found: Differences, *, greedy: bool
) -> None:
    """Every token's log-probability is that of Transformers reading what came before, and so is the choice."""
    text = list(prompt)
    assert completion.logprobs is not None and len(completion.logprobs) == len(completion.token_ids)
    for token, entries in zip(completion.token_ids, completion.logprobs, strict=True):
        truth = reference.logprobs(text)[-1]
        where = f"a prompt of {len(prompt)} tokens, token {len(text) - len(prompt)}"
        check_position(entries, token, truth, found, where)
        if greedy and truth.max() - truth[token] > TOLERANCE:
            raise ParityError(f"{where} is {token}, Transformers' {int(truth.argmax())}")
        text.append(token)


def greedy(llm: LLM, reference: Reference, prompts: Sequence[Sequence[int]] = PROMPTS, **params: Any) -> Any:
    """The prompts' outputs, checked token by token."""
    params = {"temperature": 0, "max_tokens": NUM_TOKENS, "ignore_eos": True, "logprobs": TOP, **params}
    outputs, found = llm.generate(prompts, SamplingParams(**params)), Differences()
    for prompt, output in zip(prompts, outputs, strict=True):
        check_steps(reference, prompt, output.outputs[0], found, greedy=True)
    found.require(TOLERANCE)
    return outputs


@pytest.fixture
def crossings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Each request that starts over in another regime, and its tokens."""
    seen: list[tuple[str, int]] = []
    original = Lifecycle.start_over

    def spy(self: Lifecycle, seq: Any) -> None:
        before = seq.regime
        original(self, seq)
        if seq.regime != before:
            seen.append((seq.request.request_id, len(seq.tokens)))

    monkeypatch.setattr(Lifecycle, "start_over", spy)
    return seen


@pytest.fixture
def llama(checkpoints: Checkpoints) -> Path:
    return checkpoints.make(**CONFIGS["llama"])


@pytest.mark.parametrize("name", CONFIGS)
def test_every_token_is_that_of_transformers_before_at_and_beyond_the_boundary(
    name: str, device: str, checkpoints: Checkpoints, reference: Load, crossings: list[tuple[str, int]]
) -> None:
    folder = checkpoints.make(**CONFIGS[name])
    with engine(folder, device, max_model_len=150) as llm:
        assert f"grows beyond {ORIGINAL}" in llm.blueprint.reasons["rope"]
        greedy(llm, reference(folder))
        assert {length for _, length in crossings} <= {ORIGINAL + 1, ORIGINAL + 4}
        assert sum(length == ORIGINAL + 1 for _, length in crossings) == CROSSING
        crossings.clear()
        warm = greedy(llm, reference(folder))  # what each adopts now has to be of its own regime
        assert all(output.num_cached_tokens for output in warm[1:])
        assert len(crossings) >= CROSSING


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
def test_steps_in_flight_do_not_cross_with_a_token_that_nobody_knows(
    steps_in_flight: int,
    llama: Path,
    reference: Load,
    crossings: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with engine(llama, "toy", max_model_len=150, steps_in_flight=steps_in_flight) as llm:
        seen = []
        step = Engine.step

        def spy(self: Engine) -> Any:
            changed = step(self)
            seen.append(self.num_in_flight)
            self.check()
            return changed

        monkeypatch.setattr(Engine, "step", spy)
        greedy(llm, reference(llama))
    assert max(seen) == steps_in_flight and len(crossings) == CROSSING


def test_short_and_long_sequences_adopt_nothing_from_each_other(device: str, llama: Path, reference: Load) -> None:
    text = random_prompts((70,), seed=92)[0]
    with engine(llama, device, max_model_len=150) as llm:
        size = llm.blueprint.sizes.kv.block_size
        cached = []
        for length in (70, 50, 50, 70, 40):
            (output,) = greedy(llm, reference(llama), [text[:length]], max_tokens=3)
            cached.append(output.num_cached_tokens)
    assert cached == [0, 0, 49 // size * size, 69 // size * size, 39 // size * size]


def test_a_prompts_log_probabilities_are_those_of_its_own_length(device: str, llama: Path, reference: Load) -> None:
    prompts = random_prompts((47, 50, 51), seed=93)
    with engine(llama, device, max_model_len=150) as llm:
        outputs = greedy(llm, reference(llama), prompts, prompt_logprobs=TOP)
    found = Differences()
    for prompt, output in zip(prompts, outputs, strict=True):
        assert output.prompt_logprobs is not None and len(output.prompt_logprobs) == len(prompt)
        for place, entries in enumerate(output.prompt_logprobs[1:]):
            truth = reference(llama).logprobs(prompt)[place]
            check_position(entries or {}, prompt[place + 1], truth, found, f"position {place + 1} of {len(prompt)}")
    found.require(TOLERANCE)


def test_continuations_cross_each_for_itself(
    device: str, llama: Path, reference: Load, crossings: list[tuple[str, int]]
) -> None:
    asked = SamplingParams(n=3, temperature=1, seed=5, max_tokens=9, ignore_eos=True, logprobs=TOP)
    prompts = random_prompts((46, 50), seed=94)
    with engine(llama, device, max_model_len=150) as llm:
        together = llm.generate(prompts, asked)
        assert len(crossings) == 6
        found = Differences()
        for prompt, output in zip(prompts, together, strict=True):
            for completion in output.outputs:
                check_steps(reference(llama), prompt, completion, found, greedy=False)
        found.require(TOLERANCE)
    with engine(llama, device, max_model_len=150, enable_prefix_caching=False) as llm:
        alone = [llm.generate([prompt], asked)[0] for prompt in prompts]
    for one, other in zip(alone, together, strict=True):
        assert [c.token_ids for c in one.outputs] == [c.token_ids for c in other.outputs]
        assert len({tuple(c.token_ids) for c in one.outputs}) == 3


def test_crossing_while_the_cache_is_too_small_for_all(
    device: str, llama: Path, reference: Load, crossings: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    preempted = watch_preemption(monkeypatch)
    prompts = random_prompts((44, 46, 48, 50, 52), seed=95)
    with engine(llama, device, cache_tokens=160, max_model_len=90, max_num_batched_tokens=29) as llm:
        greedy(llm, reference(llama), prompts, max_tokens=30)
    assert len(crossings) >= 4 and any(preempted)


def test_lengths_are_counted_across_the_boundary(device: str, llama: Path) -> None:
    (prompt,) = random_prompts((48,), seed=96)
    eager = {"temperature": 0, "logit_bias": {EOS: 100}}
    with engine(llama, device, max_model_len=60) as llm:
        (ended,) = llm.generate([prompt], SamplingParams(min_tokens=6, max_tokens=9, **eager))
        assert len(ended.outputs[0].token_ids) == 7 and ended.outputs[0].finish_reason == "stop"
        for max_tokens in (1, 2, 3, 4, 12):
            params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
            (cut,) = llm.generate([prompt], params)
            assert len(cut.outputs[0].token_ids) == max_tokens and cut.outputs[0].finish_reason == "length"


def test_the_length_is_that_of_the_config_and_the_boundary_is_no_limit(checkpoints: Checkpoints, llama: Path) -> None:
    with engine(llama, "cpu", max_model_len=None) as llm:
        assert llm.blueprint.sizes.max_model_len == 512
    with engine(llama, "cpu", max_model_len=ORIGINAL) as llm:
        assert llm.blueprint.decoder.switches == () and "rope" not in llm.blueprint.reasons
    with pytest.raises(UsageError, match="max_model_len must be at most 512, the model's max_position_embeddings"):
        engine(llama, "cpu", max_model_len=513)
