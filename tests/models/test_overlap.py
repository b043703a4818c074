"""Steps in flight in the whole engine: on a device that is late, and on one that is not, the same tokens."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aphrodite import LLM, SamplingParams
from aphrodite.errors import DeviceError
from aphrodite.runner.runner import ModelRunner
from aphrodite.types.outputs import RequestOutput
from aphrodite_toy import linear
from tests.support.checkpoints import Checkpoints
from tests.support.devices import block_size
from tests.support.engines import check_idle
from tests.support.parity import random_prompts

PREFIX = random_prompts((40,), seed=71)[0]
PROMPTS = [*random_prompts((3, 30, 1, 47), seed=72), [*PREFIX, 5], [*PREFIX, 6, 7]]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=14, ignore_eos=True),
    SamplingParams(temperature=1, seed=5, max_tokens=9, logprobs=2, ignore_eos=True),
    SamplingParams(temperature=1, seed=6, max_tokens=12, n=2, ignore_eos=True),
    SamplingParams(temperature=0.7, seed=7, max_tokens=10, top_k=9, repetition_penalty=1.3, ignore_eos=True),
    SamplingParams(temperature=0, max_tokens=11, prompt_logprobs=1, ignore_eos=True),
    SamplingParams(temperature=1, seed=8, max_tokens=13),
]


def engine(folder: Path, device: str, cache_tokens: int = 3200, **settings: Any) -> LLM:
    num_blocks = cache_tokens // block_size(device)
    settings = {"dtype": "float32", "max_model_len": 160, "num_blocks": num_blocks, **settings}
    return LLM(str(folder), device=device, **settings)


def told(outputs: list[RequestOutput]) -> list[Any]:
    """All that a caller can compare but for numbers that batches round differently."""
    return [[(one.token_ids, one.finish_reason, one.text) for one in output.outputs] for output in outputs]


@pytest.fixture(scope="module")
def folder(checkpoints: Checkpoints) -> Path:
    return checkpoints.llama(attention_bias=True, seed=12)


@pytest.fixture
def overlaps(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each step, whether the one before had not ended when it was submitted."""
    seen: list[bool] = []
    last: list[Any] = []
    submit, sample = ModelRunner.submit, ModelRunner.sample

    def watched_submit(self: ModelRunner, plan: Any) -> Any:
        seen.append(bool(last) and not last[-1].done())
        return submit(self, plan)

    def watched_sample(self: ModelRunner, step: Any, late: None = None) -> Any:
        last.append(sample(self, step, late))
        return last[-1]

    monkeypatch.setattr(ModelRunner, "submit", watched_submit)
    monkeypatch.setattr(ModelRunner, "sample", watched_sample)
    return seen


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
def test_the_same_tokens_with_any_number_of_steps_in_flight(
    folder: Path, device: str, steps_in_flight: int, overlaps: list[bool]
) -> None:
    with engine(folder, "cpu", plugins="none", steps_in_flight=0) as llm:
        alone = [llm.generate([prompt], one)[0] for prompt, one in zip(PROMPTS, PARAMS, strict=True)]
    overlaps.clear()
    with engine(folder, device, steps_in_flight=steps_in_flight, max_num_batched_tokens=50) as llm:
        cold = llm.generate(PROMPTS, PARAMS)
        warm = llm.generate(PROMPTS, PARAMS)
    assert told(cold) == told(warm) == told(alone)
    assert any(output.num_cached_tokens for output in warm)
    if device == "toy":  # whose results arrive late; the host's own arrive before the call returns
        assert any(overlaps) == bool(steps_in_flight)


def test_a_late_device_has_a_step_in_flight_unless_asked_otherwise(folder: Path) -> None:
    for device, asked, expected in (("toy", None, 1), ("cpu", None, 0), ("toy", 0, 0), ("toy", 3, 3)):
        with engine(folder, device, steps_in_flight=asked) as llm:
            assert llm.blueprint.sizes.steps_in_flight == expected
            assert ("asked for" in llm.blueprint.reasons["steps_in_flight"]) == (asked is not None)


# ---- failures -------------------------------------------------------------------------------------------------------


class Flaky:
    """The toy's matrix product, which fails at some of its calls, half way through: it has drawn a ticket by then."""

    def __init__(self, calls: set[int]) -> None:
        self.calls, self.count = calls, 0

    def __call__(self, honest: Any) -> Any:
        def call(*args: Any) -> None:
            self.count += 1
            if self.count in self.calls:
                args[-1][0] += 1
                raise FloatingPointError("boiling")
            honest(*args)

        return call


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
@pytest.mark.parametrize("calls", [{1}, {30}, {45, 100}])
def test_a_failed_step_is_run_again_and_nobody_notices(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    steps_in_flight: int,
    calls: set[int],
) -> None:
    with engine(folder, "toy") as llm:
        expected = told(llm.generate(PROMPTS, PARAMS))
    flaky = Flaky(calls)
    monkeypatch.setattr("aphrodite_toy.linear._split_k", flaky(linear._split_k))
    with engine(folder, "toy", steps_in_flight=steps_in_flight) as llm:
        assert told(llm.generate(PROMPTS, PARAMS)) == expected
        assert caplog.text.count("FloatingPointError: boiling") == len(calls)
        check_idle(llm)


def test_a_step_that_fails_twice_is_an_error_and_the_engine_lives(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine(folder, "toy") as llm:
        expected = told(llm.generate(PROMPTS, PARAMS))
        with monkeypatch.context() as patch:
            patch.setattr("aphrodite_toy.attention._gather", lambda *args: 1 / 0)
            with pytest.raises(DeviceError, match=r"toy\.attention at \S+ failed on toy: ZeroDivisionError"):
                llm.generate(PROMPTS, PARAMS)
        check_idle(llm)
        assert told(llm.generate(PROMPTS, PARAMS)) == expected


def test_an_interrupt_between_submission_and_result_leaves_the_engine_sound(
    folder: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the engine's thread it is no Ctrl-C: it must not look like one to whoever waits."""
    with engine(folder, device, steps_in_flight=1) as llm:
        expected = told(llm.generate(PROMPTS, PARAMS))
        with monkeypatch.context() as patch:
            patch.setattr("aphrodite.runner.runner.PendingResults.result", interrupt)
            with pytest.raises(DeviceError, match="a step was ended by KeyboardInterrupt"):
                llm.generate(PROMPTS, PARAMS)
        assert told(llm.generate(PROMPTS, PARAMS)) == expected


def interrupt(self: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
def test_rows_are_rebuilt_from_the_host_at_any_time(
    folder: Path, device: str, monkeypatch: pytest.MonkeyPatch, steps_in_flight: int
) -> None:
    """After every few steps the rows are filled with rubbish and the engine is told that the device forgot them."""
    with engine(folder, device, steps_in_flight=steps_in_flight) as llm:
        expected = told(llm.generate(PROMPTS, PARAMS))
        step, count = llm._local.engine.step, [0]
        runner: Any = llm._local.engine._runner

        def forgetful() -> Any:
            count[0] += 1
            if count[0] % 4 == 0:
                llm._local.engine.recover()
                rubbish = np.full(len(runner._rows.fields) * 7, 0x2BADBAD, np.int32)
                runner._write(runner._programs.updates, np.arange(len(rubbish), dtype=np.int32), rubbish)
            return step()

        monkeypatch.setattr(llm._local.engine, "step", forgetful)
        assert told(llm.generate(PROMPTS, PARAMS)) == expected
        assert count[0] > 12


# ---- no numbers -----------------------------------------------------------------------------------------------------

POISON = 77


@pytest.fixture(scope="module")
def poisoned(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in which one token's embedding is no number: whoever has it in its prompt computes NaN."""
    folder = tmp_path_factory.mktemp("poisoned") / "model"
    copytree(checkpoints.llama(attention_bias=True, seed=12, tie_word_embeddings=False), folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][POISON] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("steps_in_flight", [0, 1, 2])
def test_a_row_that_is_no_number_fails_alone(poisoned: Path, device: str, steps_in_flight: int) -> None:
    healthy = [[token if token != POISON else 78 for token in prompt] for prompt in PROMPTS]
    sick = [[9, 8, POISON, 4], [*PREFIX, POISON, 5, 6], [*random_prompts((60,), seed=9)[0], POISON]]
    mixed = [sick[0], *healthy[:3], sick[1], *healthy[3:], sick[2]]
    params = [PARAMS[0], *PARAMS[:3], PARAMS[0], *PARAMS[3:], PARAMS[1]]
    with engine(poisoned, device, steps_in_flight=0) as llm:
        expected = told([llm.generate([prompt], one)[0] for prompt, one in zip(healthy, PARAMS, strict=True)])
    with engine(poisoned, device, 640, steps_in_flight=steps_in_flight, max_num_batched_tokens=70) as llm:
        for _ in range(2):  # the second time on what the first has left
            outputs = llm.generate(mixed, params)
            ends = [output.outputs[0].finish_reason for output in outputs]
            assert [place for place, end in enumerate(ends) if end == "error"] == [0, 4, 8]
            others = [output for place, output in enumerate(outputs) if place not in (0, 4, 8)]
            assert told(others) == expected
        check_idle(llm)


def test_blocks_that_held_no_numbers_are_zeroed_before_the_next_step(poisoned: Path) -> None:
    with engine(poisoned, "cpu") as llm:
        llm.generate([[9, 8, POISON, *range(3, 40)]], PARAMS[0])
        storage = _storage(llm)
        assert len(storage) == 4, "keys and values of two layers"
        assert any(not torch.isfinite(one).all() for one in storage), "nothing to see"
        llm.generate([[9, 8, 7]], PARAMS[0])
        assert all(torch.isfinite(one[1:]).all() for one in storage), "block 0 is nobody's"


def _storage(llm: LLM) -> list[torch.Tensor]:
    """Keys and values of every layer, [block, ...], as the kernels have them."""
    found = []
    for run in llm._local.engine._runner._programs.zeroing[0]._bound.values():
        cells = [cell.cell_contents for cell in run.__closure__ or ()]
        for fixed in (cell for cell in cells if isinstance(cell, dict) and "cache" in cell):
            found += list(fixed["cache"].canonical())
    return found
