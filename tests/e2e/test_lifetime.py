"""An LLM in the life of another program: opened and closed many times, called from threads, closed at odd moments."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aphrodite import LLM, SamplingParams
from aphrodite.errors import UsageError
from tests.support.checkpoints import Checkpoints

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
DEVICES = ["cpu", "toy"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(Checkpoints(tmp_path_factory.mktemp("lifetime")).llama())


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.parametrize("device", DEVICES)
def test_ten_rounds_of_open_and_close_grow_memory_by_less_than_16_mib(model: str, device: str) -> None:
    """Without the garbage collector, and with the closed objects kept: close() itself gives the memory back.

    A layer's cache has 80 MiB, so that one that is kept shows, and so that the C library maps it by itself: pieces of
    up to 32 MiB come from its heap, which may stay larger by one of them for reasons of its own.
    """
    kept = []

    def one() -> None:
        llm = LLM(model, device=device, kv_cache_memory_bytes=160 << 20, max_num_batched_tokens=64)
        llm.generate([[1, 2, 3]], GREEDY)
        llm.close()
        kept.append(llm)

    for _ in range(4):
        one()
    gc.collect()
    gc.disable()
    try:
        before = resident_mib()
        for _ in range(10):
            one()
        grown = resident_mib() - before
    finally:
        gc.enable()
    print(f"grew by {grown:.1f} MiB")
    assert grown < 16


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", [{"num_blocks": 1}, {"max_model_len": 8}, {"max_model_len": 2}])
def test_a_table_of_one_block_is_a_table(model: str, device: str, settings: dict[str, Any]) -> None:
    with LLM(model, device=device, **settings) as llm, LLM(model, device=device) as large:
        expected = large.generate([[7]], SamplingParams(temperature=0, max_tokens=1, ignore_eos=True))
        found = llm.generate([[7]], GREEDY)
        assert found[0].outputs[0].token_ids[0] == expected[0].outputs[0].token_ids[0]


def test_generate_from_several_threads_gives_each_its_own(model: str) -> None:
    prompts = [[5 + n, 9, 30 + n] for n in range(6)]
    with LLM(model, device="toy", max_num_seqs=4) as llm:
        expected = [llm.generate([prompt], GREEDY)[0].outputs[0].token_ids for prompt in prompts]
        found: dict[int, list[int]] = {}

        def run(place: int) -> None:
            found[place] = llm.generate([prompts[place]], GREEDY)[0].outputs[0].token_ids

        threads = [threading.Thread(target=run, args=(place,)) for place in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[place] for place in range(len(prompts))] == expected


class Callback:
    """Progress that calls something from inside generate, once."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._called = False

    def start(self, label: str, total: int, unit: str) -> None:
        pass

    def advance(self, amount: int) -> None:
        if not self._called:
            self._called = True
            self._call()

    def finish(self) -> None:
        pass


def slow(llm: LLM) -> LLM:
    """The same, a step of which takes 20 ms and more."""
    step = llm._local.engine.step

    def slowly() -> Any:
        time.sleep(0.02)
        return step()

    llm._local.engine.step = slowly  # type: ignore[method-assign]
    return llm


def test_generate_may_be_called_from_inside_generate(model: str) -> None:
    with LLM(model) as llm:
        inner: list[Any] = []
        callback = Callback(lambda: inner.append(llm.generate([[1, 2, 3]], GREEDY)))
        output = llm.generate([[1, 2, 3]], GREEDY, progress=callback)
        assert inner and inner[0][0].outputs[0].token_ids == output[0].outputs[0].token_ids


def test_close_ends_what_still_runs(model: str) -> None:
    """From inside generate, and from another thread: the call that runs is refused, and nothing hangs."""
    long = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)
    for device in DEVICES:
        llm = slow(LLM(model, device=device))
        stream = llm.stream([1, 2, 3], long)
        next(stream)
        closer = threading.Thread(target=llm.close)
        closer.start()
        with pytest.raises(UsageError, match="closed while the request ran"):
            for _ in stream:
                pass
        closer.join()
        llm = slow(LLM(model, device=device))
        with pytest.raises(UsageError, match="closed while the request ran"):
            llm.generate([[1, 2, 3]], long, progress=Callback(llm.close))


def test_a_closed_llm_says_so_and_may_be_closed_again(model: str) -> None:
    llm = LLM(model)
    llm.close()
    llm.close()
    with pytest.raises(UsageError, match="closed"):
        llm.generate([[1]], GREEDY)


def test_two_engines_live_in_one_process(model: str) -> None:
    with LLM(model, device="toy") as one, LLM(model, device="toy") as other, LLM(model) as third:
        start = time.monotonic()
        found = [llm.generate([[4, 5, 6]], GREEDY)[0].outputs[0].token_ids for llm in (one, other, third, one)]
        assert time.monotonic() - start < 60
    assert found.count(found[0]) == 4
