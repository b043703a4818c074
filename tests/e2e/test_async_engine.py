"""The engine inside an asyncio program: streams, cancellation, bad requests among good ones."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aphrodite import LLM, AsyncEngine, RequestOutput, SamplingParams
from aphrodite.engine.engine import Engine
from aphrodite.errors import UsageError
from aphrodite.types.stats import EngineStats
from tests.e2e.test_loading_faults import PARAMETERS, PROMPTS
from tests.support.checkpoints import Checkpoints
from tests.support.engines import never_ending

DEVICES = ["cpu", "toy"]
LONG = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(Checkpoints(tmp_path_factory.mktemp("asyncio")).llama())


def run(folder: str, use: Callable[[AsyncEngine], Awaitable[None]], **settings: Any) -> None:
    """Open an engine, use it, see that it comes to rest with its books in order."""

    async def main() -> None:
        settings.setdefault("max_model_len", 64)
        async with await asyncio.to_thread(lambda: AsyncEngine(folder, dtype="float32", **settings)) as engine:
            await use(engine)
            loop = engine._local.loop
            while await asyncio.to_thread(loop.call, lambda one: one.has_work):
                await asyncio.sleep(0.01)
            await asyncio.to_thread(loop.call, Engine.check)

    asyncio.run(asyncio.wait_for(main(), 120))


async def last(outputs: Any) -> RequestOutput:
    found = None
    async for output in outputs:
        found = output
    assert found is not None and found.finished
    return found


JOBS: list[tuple[Any, SamplingParams]] = [
    ([5, 9, 30], LONG),
    ("The engine", SamplingParams(temperature=1, seed=4, max_tokens=30, n=2)),
    ([7] * 20, LONG.replace(logprobs=2)),
    ({"prompt_token_ids": [8, 9], "cache_salt": "x"}, SamplingParams(temperature=0.8, seed=1, top_k=9, max_tokens=30)),
]


@pytest.mark.parametrize("device", DEVICES)
def test_many_at_once_give_what_generate_gives(folder: str, device: str) -> None:
    with LLM(folder, device=device, dtype="float32", max_model_len=64) as llm:
        expected = [llm.generate([prompt], params)[0] for prompt, params in JOBS]

    async def use(engine: AsyncEngine) -> None:
        streams = [engine.generate(*job, request_id=f"job {place}") for place, job in enumerate(JOBS)]
        found = await asyncio.gather(*map(last, streams))
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert one.request_id == f"job {place}"
            assert [(o.text, o.token_ids, o.finish_reason) for o in one.outputs] == [
                (o.text, o.token_ids, o.finish_reason) for o in other.outputs
            ]

    run(folder, use, device=device)


def test_outputs_grow_and_the_last_is_finished(folder: str) -> None:
    async def use(engine: AsyncEngine) -> None:
        seen = [output async for output in engine.generate("The engine", LONG)]
        counts = [len(output.outputs[0].token_ids) for output in seen]
        assert counts == sorted(counts) and counts[-1] == 40 and len(counts) > 1
        assert [output.finished for output in seen] == [False] * (len(seen) - 1) + [True]

    run(folder, use)


@pytest.mark.parametrize("device", DEVICES)
def test_who_stops_reading_is_waited_for_and_misses_nothing(folder: str, device: str) -> None:
    """With 20 log-probabilities a token, 48 tokens may wait to be read."""
    wanted = SamplingParams(temperature=1, seed=3, max_tokens=60, ignore_eos=True, logprobs=20)

    async def use(engine: AsyncEngine) -> None:
        alone = await last(engine.generate([5, 9, 30], wanted))
        loop = engine._local.loop

        async def stats() -> EngineStats:
            return await asyncio.to_thread(loop.call, Engine.stats)

        idle = engine.generate([5, 9, 30], wanted)
        await anext(idle)
        while not (found := await stats()).num_held:
            await asyncio.sleep(0.01)
        assert found.kv_blocks_free == found.kv_blocks_total
        assert not await asyncio.to_thread(loop.call, lambda one: one.has_work), "the engine's thread sleeps"
        await last(engine.generate([7] * 20, LONG))
        assert (await stats()).num_held == 1
        late = await last(idle)
        assert late.outputs[0].token_ids == alone.outputs[0].token_ids
        assert late.outputs[0].text == alone.outputs[0].text and len(late.outputs[0].logprobs or ()) == 60
        dropped = engine.generate([5, 9, 30], wanted)
        await anext(dropped)
        while not (await stats()).num_held:
            await asyncio.sleep(0.01)
        del dropped
        gc.collect()
        while (await stats()).num_held:
            await asyncio.sleep(0.01)

    run(folder, use, device=device)


@pytest.mark.parametrize("device", DEVICES)
def test_a_dropped_a_closed_and_a_cancelled_iterator_abort_their_requests(folder: str, device: str) -> None:
    """`run` sees that the engine comes to rest: nobody generates a million tokens for nobody."""
    endless = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)

    async def use(engine: AsyncEngine) -> None:
        dropped = engine.generate([5, 6], endless)
        await anext(dropped)
        del dropped
        gc.collect()
        closed = engine.generate([5, 6], endless)
        await anext(closed)
        await closed.aclose()  # type: ignore[attr-defined]
        with pytest.raises(StopAsyncIteration):
            await anext(closed)
        broken_off = engine.generate([5, 6], endless)
        async for _ in broken_off:
            break
        with never_ending(engine._local.engine):
            cancelled = asyncio.create_task(last(engine.generate([5, 6], endless)))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        never_begun = engine.generate([5, 6], endless)
        del never_begun, broken_off

    run(folder, use, device=device, max_model_len=400)


def test_abort_ends_a_request_with_what_there_is(folder: str) -> None:
    async def use(engine: AsyncEngine) -> None:
        endless = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
        with never_ending(engine._local.engine):
            stream = engine.generate([5, 6], endless, request_id="a")
            first = await anext(stream)
            with pytest.raises(UsageError, match="request_id 'a' is running already"):
                engine.generate([5], request_id="a")
            engine.abort("a")
            engine.abort("unknown")
            outputs = [output async for output in stream]
        assert outputs[-1].outputs[0].finish_reason == "abort"
        assert outputs[-1].outputs[0].token_ids[:1] == first.outputs[0].token_ids[:1]
        again = await last(engine.generate([5], LONG, request_id="a"))  # the name is free again
        assert again.outputs[0].finish_reason == "length"

    run(folder, use, max_model_len=400)


@pytest.mark.parametrize("device", DEVICES)
def test_bad_requests_leave_the_others_untouched(folder: str, device: str) -> None:
    """Every kind of bad prompt and parameter that the tests know, while good requests run."""
    with LLM(folder, device=device, dtype="float32", max_model_len=64) as llm:
        expected = [llm.generate([prompt], params)[0].outputs[0].token_ids for prompt, params in JOBS]

    async def bad(engine: AsyncEngine) -> int:
        count = 0
        for prompt, _ in PROMPTS.values():
            with pytest.raises(UsageError):
                await last(engine.generate(prompt, LONG))
            count += 1
        for name, values in PARAMETERS.items():
            for value in values:
                with pytest.raises(UsageError):
                    await last(engine.generate([5], SamplingParams(**{name: value})))
                count += 1
        for params in (3, None, "x"):
            if params is not None:
                with pytest.raises(UsageError, match="sampling_params"):
                    await last(engine.generate([5], params))  # type: ignore[arg-type]
        for params in (
            SamplingParams(stop_token_ids=[320]),
            SamplingParams(allowed_token_ids=[320]),
            SamplingParams(logit_bias={320: 1}),
            SamplingParams(bad_words=["\ud800"]),
            SamplingParams(min_tokens=9, max_tokens=9, allowed_token_ids=[2]),
        ):
            with pytest.raises(UsageError):
                await last(engine.generate([5], params))
            count += 1
        return count

    async def use(engine: AsyncEngine) -> None:
        for _ in range(2):
            good = [asyncio.create_task(last(engine.generate(*job))) for job in JOBS]
            assert await bad(engine) > 100
            assert [(await task).outputs[0].token_ids for task in good] == expected

    run(folder, use, device=device)


def test_an_engine_that_is_closed_ends_its_requests_and_refuses_others(folder: str) -> None:
    async def main() -> None:
        engine = AsyncEngine(folder, max_model_len=400)
        with never_ending(engine._local.engine):
            stream = engine.generate([5, 6], SamplingParams(temperature=0, max_tokens=None, ignore_eos=True))
            await anext(stream)
            await engine.aclose()
        with pytest.raises(UsageError, match="closed while the request ran"):
            async for _ in stream:
                pass
        with pytest.raises(UsageError, match="closed"):
            await last(engine.generate([5], LONG))
        engine.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_step_that_fails_twice_ends_all_requests_and_the_engine_serves_on(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(engine: AsyncEngine) -> None:
        expected = (await last(engine.generate([5, 6], LONG))).outputs[0].token_ids
        runner = engine._local.engine._runner
        with monkeypatch.context() as patch:
            patch.setattr(runner, "submit", lambda plan: 1 / 0)
            found = await asyncio.gather(
                *(last(engine.generate([5, n], LONG)) for n in range(5)), return_exceptions=True
            )
        assert [type(error) for error in found] == [ZeroDivisionError] * 5
        assert (await last(engine.generate([5, 6], LONG))).outputs[0].token_ids == expected

    run(folder, use)


def test_a_long_text_is_tokenised_beside_the_event_loop(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on while a text of a megabyte is refused."""

    async def use(engine: AsyncEngine) -> None:
        begun, went_on = threading.Event(), threading.Event()
        frontend = engine._local.frontend
        prepare = frontend.prepare_one

        def prepare_late(*given: Any, **named: Any) -> Any:
            begun.set()
            assert went_on.wait(30), "the loop stands still"
            return prepare(*given, **named)

        async def go_on() -> None:
            while not begun.is_set():
                await asyncio.sleep(0.001)
            went_on.set()

        monkeypatch.setattr(frontend, "prepare_one", prepare_late)
        going = asyncio.create_task(go_on())
        with pytest.raises(UsageError, match="tokens"):
            await last(engine.generate("the other " * 6000, LONG))
        await going

    run(folder, use)


def test_chat_streams_an_answer(folder: str, tmp_path: Path) -> None:
    async def use(engine: AsyncEngine) -> None:
        output = await last(
            engine.chat([{"role": "user", "content": "Hi"}], LONG, chat_template="{{ messages[0].content }}:")
        )
        assert output.prompt == "Hi:" and len(output.outputs[0].token_ids) == 40

    run(folder, use)
