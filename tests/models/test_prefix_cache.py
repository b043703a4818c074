"""The prefix cache and preemption in the whole engine: fewer tokens are computed, and the same ones come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aphrodite import LLM, SamplingParams
from aphrodite.errors import UsageError
from aphrodite.sched.scheduler import Scheduler
from aphrodite.types.request import Sequence
from tests.support.checkpoints import Checkpoints
from tests.support.devices import block_size
from tests.support.engines import check_idle
from tests.support.parity import check_parity, compare_greedy, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]
PREFIX = random_prompts((100,), seed=31)[0]
TAILS = random_prompts((1, 9, 16, 17, 30, 5), seed=32)
PROMPTS = [[*PREFIX, *tail] for tail in TAILS]


def engine(folder: object, device: str, cache_tokens: int = 6400, **settings: Any) -> LLM:
    settings = {"dtype": "float32", "max_model_len": 200, "num_blocks": cache_tokens // block_size(device), **settings}
    return LLM(str(folder), device=device, **settings)


def params(**changes: Any) -> list[SamplingParams]:
    """One for each prompt: greedy ones and warm ones, each with its seed."""
    return [
        SamplingParams(**{"temperature": float(i % 2), "seed": 50 + i, "max_tokens": 12, "ignore_eos": True, **changes})
        for i in range(len(PROMPTS))
    ]


def tokens(outputs: Any) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


def shared(device: str) -> int:
    """Tokens of PREFIX in whole blocks."""
    return len(PREFIX) // block_size(device) * block_size(device)


@pytest.fixture
def folder(checkpoints: Checkpoints) -> Any:
    return checkpoints.llama(attention_bias=True, seed=12)


def test_cold_warm_and_no_cache_give_the_same_tokens(device: str, folder: Any) -> None:
    with engine(folder, device, enable_prefix_caching=False) as llm:
        plain = llm.generate(PROMPTS, params())
        assert [output.num_cached_tokens for output in llm.generate(PROMPTS, params())] == [0] * len(PROMPTS)
    with engine(folder, device) as llm:
        cold, warm = llm.generate(PROMPTS, params()), llm.generate(PROMPTS, params())
        alone = [llm.generate([prompt], one)[0] for prompt, one in zip(PROMPTS, params(), strict=True)]
        llm.reset_prefix_cache()
        again = [llm.generate([prompt], one)[0] for prompt, one in zip(PROMPTS[:1], params(), strict=False)]
    assert tokens(plain) == tokens(cold) == tokens(warm) == tokens(alone)
    assert cold[0].num_cached_tokens == again[0].num_cached_tokens == 0
    assert all(output.num_cached_tokens >= shared(device) for output in [*cold[1:], *warm, *alone])
    assert all(output.num_cached_tokens < len(output.prompt_token_ids) for output in [*warm, *alone])


def test_a_request_gives_the_same_tokens_among_63_others_that_share_its_prefix(device: str, folder: Any) -> None:
    crowd = [[*PREFIX[: 3 * i % 100], *tail] for i, tail in enumerate(random_prompts(range(1, 64), seed=33))]
    crowd_params = [SamplingParams(temperature=1.0, seed=i, max_tokens=1 + i % 14, ignore_eos=True) for i in range(63)]
    for prompt, one in zip(PROMPTS[2:4], params()[2:4], strict=True):
        with engine(folder, device) as llm:
            alone = llm.generate([prompt], one)[0]
        with engine(folder, device) as llm:
            among = llm.generate([*crowd[:31], prompt, *crowd[31:]], [*crowd_params[:31], one, *crowd_params[31:]])[31]
        assert among.num_cached_tokens > 0
        assert among.outputs[0].token_ids == alone.outputs[0].token_ids


def test_prefix_hits_are_as_right_as_computing(device: str, folder: Any, reference: Load) -> None:
    with engine(folder, device, max_num_batched_tokens=61) as llm:
        for label in ("cold", "warm"):
            check_parity(llm, reference(folder), PROMPTS, label=f"{label}, {device}")
        outputs = llm.generate(PROMPTS, params())
    assert all(output.num_cached_tokens >= shared(device) for output in outputs)


def test_the_next_turn_of_a_conversation_starts_from_the_last(device: str, folder: Any, reference: Load) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    with engine(folder, device) as llm:
        first = llm.generate([PROMPTS[1]], greedy)[0]
        text = [*PROMPTS[1], *first.outputs[0].token_ids]
        second = llm.generate([[*text, 5, 6]], SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))[0]
    size = block_size(device)
    assert second.num_cached_tokens == (len(text) - 1) // size * size > len(PROMPTS[1])
    assert second.outputs[0].token_ids == reference(folder).greedy([*text, 5, 6], 8)


def test_salts_isolate_tenants(device: str, folder: Any) -> None:
    with engine(folder, device) as llm:
        cached = [
            llm.generate({"prompt_token_ids": PROMPTS[0], **salt}, params()[0])[0].num_cached_tokens
            for salt in ({}, {"cache_salt": "a"}, {"cache_salt": "b"}, {"cache_salt": "a"}, {})
        ]
        assert cached == [0, 0, 0, shared(device), shared(device)]
        for wrong in ("", 7, "\ud800", "a\0"):
            with pytest.raises(UsageError, match="cache_salt must be printable text"):
                llm.generate({"prompt_token_ids": [1, 2], "cache_salt": wrong}, params()[0])


def test_prompt_log_probabilities_are_computed_on_a_warm_cache_too(device: str, folder: Any) -> None:
    asked = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, prompt_logprobs=1)
    with engine(folder, device) as llm:
        cold, warm = (llm.generate([PROMPTS[3]], asked)[0] for _ in range(2))
    assert warm.num_cached_tokens == 0
    assert len(warm.prompt_logprobs or []) == len(PROMPTS[3])
    assert tokens([cold]) == tokens([warm])


def preempt_often(monkeypatch: pytest.MonkeyPatch) -> dict[str, Sequence]:
    """Beside what small caches do, take a sequence off the device at each step, the oldest too, whom nobody would
    preempt, until each has been three times. Returns all sequences by id."""
    seen: dict[str, Sequence] = {}
    schedule = Scheduler.schedule

    def spy(self: Scheduler) -> Any:
        seen.update((seq.request.request_id, seq) for seq in self.live())
        victim = min(self._lifecycle.running, key=lambda seq: seq.num_preemptions, default=None)
        if victim is not None and victim.num_preemptions < 3:
            self._lifecycle.preempt(victim)
        self.check()
        return schedule(self)

    monkeypatch.setattr(Scheduler, "schedule", spy)
    return seen


@pytest.mark.parametrize("caching", [True, False])
def test_every_request_preempted_three_times_gives_transformers_tokens(
    caching: bool, device: str, folder: Any, reference: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[*PREFIX[:40], *tail] for tail in random_prompts((1, 9, 16, 17, 20, 5), seed=34)]
    seen = preempt_often(monkeypatch)
    settings = {"max_model_len": 96, "cache_tokens": 144, "enable_prefix_caching": caching}
    with engine(folder, device, **settings) as llm:
        compare_greedy(llm, reference(folder), prompts, num_tokens=24)
        drawn = tokens(llm.generate(prompts, params(max_tokens=20)))
    monkeypatch.undo()
    assert min(seq.num_preemptions for seq in seen.values()) >= 3
    assert any(seq.num_cached_tokens for seq in seen.values()) is caching
    with engine(folder, device) as llm:
        assert drawn == tokens(llm.generate(prompts, params(max_tokens=20)))


def test_urgent_requests_come_first_and_nobody_notices_otherwise(device: str, folder: Any) -> None:
    with engine(folder, device) as llm:
        plain = tokens(llm.generate(PROMPTS, params()))
    settings = {"scheduling_policy": "priority", "max_num_seqs": 2, "cache_tokens": 208}
    with engine(folder, device, **settings) as llm:
        ended: list[str] = []
        step = llm._local.engine.step

        def spy() -> Any:
            changed = step()
            ended.extend(seq.request.request_id for seq in changed if seq.finish_reason)
            llm._local.engine.check()
            return changed

        llm._local.engine.step = spy  # type: ignore[method-assign]
        outputs = llm.generate(PROMPTS, params(), priority=[5, 4, 3, 2, 1, 0])
        for wrong in ("high", 1.0, [1], None):
            with pytest.raises(UsageError, match="priority"):
                llm.generate(PROMPTS, params(), priority=wrong)  # type: ignore[arg-type]
    assert tokens(outputs) == plain
    assert ended.index("5") < ended.index("2") < ended.index("0")


def test_an_engine_goes_on_after_a_failed_step(device: str, folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(folder, device) as llm:
        plain = tokens(llm.generate(PROMPTS, params()))
        llm.reset_prefix_cache()
        runner = llm._local.engine._runner
        sample = runner.sample
        monkeypatch.setattr(runner, "sample", lambda step, late=None: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            llm.generate(PROMPTS, params())
        monkeypatch.setattr(runner, "sample", sample)
        check_idle(llm)
        cold = llm.generate(PROMPTS, params())
        assert cold[0].num_cached_tokens == 0, "what the failed step published is gone"
        assert tokens(cold) == plain
