"""What a caller gets: text that ends at stop strings, chats, streams, several threads, times, progress."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aphrodite import LLM, RequestOutput, SamplingParams
from aphrodite.engine.engine import Engine
from aphrodite.errors import UsageError
from tests.support.checkpoints import Checkpoints, edit_json
from tests.support.engines import check_idle
from tests.support.waiting import until

DEVICES = ["cpu", "toy"]
LONG = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
PROMPTS = ["The engine schedules", "A block holds", [5, 9, 30], "Grüße"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ opening | default('assistant:') }}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Checkpoints(tmp_path_factory.mktemp("outputs")).llama()


@pytest.fixture(scope="module", params=DEVICES)
def llm(request: pytest.FixtureRequest, folder: Path) -> Iterator[LLM]:
    with LLM(str(folder), device=request.param, dtype="float32", max_model_len=128) as llm:
        yield llm


# ---- stop strings ---------------------------------------------------------------------------------------------------


def pieces(text: str, seed: int) -> list[str]:
    """Strings that stand in a text, of several lengths, and one that does not."""
    rng = random.Random(seed)
    starts = [rng.randrange(len(text) // 3, len(text) - 6) for _ in range(4)]
    return [*(text[start : start + rng.choice([1, 2, 3, 5])] for start in starts), "\u2603 nowhere"]


def cut(output: RequestOutput, stops: list[str], decode: Any) -> tuple[int, str, str | None]:
    """By definition: the first number of tokens whose text holds a stop string, the text before it, and which it is."""
    ids = output.outputs[0].token_ids
    for count in range(1, len(ids) + 1):
        text = decode(ids[:count])
        ends = [(text.index(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
        if ends:
            end, _, stop = min(ends)
            return count, text[: end - len(stop)], stop
    return len(ids), decode(ids), None


@pytest.fixture(scope="module")
def plain(llm: LLM) -> SamplingParams:
    """LONG, of tokens that are whole characters: a text of random bytes has pieces that later ones still change."""
    assert llm.tokenizer is not None
    whole = [token for token in range(3, 320) if (llm.tokenizer.token(token) or "\ufffd").isascii()]
    return LONG.replace(allowed_token_ids=whole)


@pytest.mark.parametrize("seed", range(4))
def test_text_ends_at_the_first_stop_string_and_so_do_tokens_and_logprobs(
    llm: LLM, plain: SamplingParams, seed: int
) -> None:
    assert llm.tokenizer is not None
    free = llm.generate(PROMPTS, plain.replace(logprobs=1))
    stops = [pieces(output.outputs[0].text, seed) for output in free]
    params = [plain.replace(stop=stop, logprobs=1) for stop in stops]
    found = llm.generate(PROMPTS, params)
    with_stop = llm.generate(PROMPTS, [one.replace(include_stop_str_in_output=True) for one in params])
    for before, after, included, stop in zip(free, found, with_stop, stops, strict=True):
        count, text, which = cut(before, stop, llm.tokenizer.decode)
        one = after.outputs[0]
        assert (len(one.token_ids), one.text, one.stop_reason) == (count, text, which)
        assert one.token_ids == before.outputs[0].token_ids[:count]
        assert one.logprobs is not None and len(one.logprobs) == count
        assert one.finish_reason == ("stop" if which else "length")
        assert included.outputs[0].text == text + (which or "")
    check_idle(llm)


def test_a_stop_string_before_min_tokens_does_not_count(llm: LLM, plain: SamplingParams) -> None:
    free = llm.generate(PROMPTS[0], plain)[0].outputs[0]
    stop = free.text[4:6]
    early = llm.generate(PROMPTS[0], plain.replace(stop=stop))[0].outputs[0]
    assert early.stop_reason == stop
    late = llm.generate(PROMPTS[0], plain.replace(stop=stop, min_tokens=len(early.token_ids)))[0].outputs[0]
    assert len(late.token_ids) > len(early.token_ids)
    assert late.text.startswith(free.text[: len(early.text) + 2])


def test_children_end_one_by_one(llm: LLM, plain: SamplingParams) -> None:
    """Each continuation has its own end, and the others go on."""
    params = plain.replace(temperature=1, seed=3, n=4, max_tokens=40)
    free = llm.generate([[7, 8]], params)[0].outputs
    stop = free[2].text[5:7]
    found = llm.generate([[7, 8]], params.replace(stop=stop))[0].outputs
    assert found[2].stop_reason == stop
    for one, other in zip(found, free, strict=True):
        assert one.token_ids == other.token_ids[: len(one.token_ids)]
        assert (one.finish_reason == "length") == (stop not in other.text)
    check_idle(llm)


def test_copies_of_a_greedy_request_end_alike(llm: LLM, plain: SamplingParams) -> None:
    stop = llm.generate(PROMPTS[0], plain)[0].outputs[0].text[5:8]
    outputs = llm.generate(PROMPTS[0], plain.replace(n=3, stop=stop))[0].outputs
    assert [one.index for one in outputs] == [0, 1, 2]
    assert {(one.text, one.stop_reason, tuple(one.token_ids)) for one in outputs} == {
        (outputs[0].text, stop, tuple(outputs[0].token_ids))
    }


# ---- streams --------------------------------------------------------------------------------------------------------


def test_a_stream_grows_to_what_generate_gives(llm: LLM) -> None:
    params = SamplingParams(temperature=1, seed=9, n=2, max_tokens=30, logprobs=1, prompt_logprobs=0)
    whole = llm.generate(PROMPTS[0], params)[0]
    steps = list(llm.stream(PROMPTS[0], params))
    for before, after in itertools.pairwise(steps):
        for one, next_one in zip(before.outputs, after.outputs, strict=True):
            assert next_one.text.startswith(one.text)
            assert next_one.token_ids[: len(one.token_ids)] == one.token_ids
            assert one.logprobs is not None and len(one.logprobs) == len(one.token_ids)
    assert [output.finished for output in steps] == [False] * (len(steps) - 1) + [True]
    assert [(one.text, one.token_ids) for one in steps[-1].outputs] == [
        (one.text, one.token_ids) for one in whole.outputs
    ]
    assert len(steps) > 1


def test_a_stream_that_is_not_read_waits_for_its_reader_and_holds_up_nobody(llm: LLM) -> None:
    params = SamplingParams(temperature=1, seed=3, max_tokens=100, ignore_eos=True, logprobs=20)
    (expected,) = llm.generate(PROMPTS[0], params)
    idle = llm.stream(PROMPTS[0], params)
    next(idle)
    until(lambda: llm._local.loop.call(Engine.stats).num_held)
    (other,) = llm.generate(PROMPTS[1], LONG)
    assert other.finished and llm._local.loop.call(Engine.stats).num_held == 1
    *_, late = idle
    assert late.finished and late.outputs[0].token_ids == expected.outputs[0].token_ids


def test_a_stream_that_is_closed_or_dropped_aborts_its_request(llm: LLM) -> None:
    first = llm.stream(PROMPTS[0], LONG)
    next(first)
    first.close()  # type: ignore[attr-defined]
    assert list(first) == []
    second = llm.stream(PROMPTS[0], LONG)
    next(second)
    del second
    check_idle(llm)
    assert llm.generate(PROMPTS[0], LONG)[0].outputs[0].finish_reason == "length"


def test_a_stream_refuses_at_once_what_cannot_be_used(llm: LLM) -> None:
    with pytest.raises(UsageError, match=r"prompt\[1\]"):
        llm.stream([5, -1])
    with pytest.raises(UsageError, match="sampling_params"):
        llm.stream([5], 3)  # type: ignore[arg-type]


# ---- threads --------------------------------------------------------------------------------------------------------


def test_threads_share_steps_and_get_their_own(llm: LLM) -> None:
    """Eight callers at once: they are served together, and each gets what it would get alone."""
    jobs = [([5 + n, 9, 30 + n], SamplingParams(temperature=1, seed=n, max_tokens=40)) for n in range(8)]
    alone = [llm.generate([prompt], params)[0].outputs[0].token_ids for prompt, params in jobs]
    together = 0
    engine, loop = llm._local.engine, llm._local.loop
    step, add = engine.step, loop.add
    added: list[Any] = []

    def counted(*given: Any) -> None:
        add(*given)
        added.append(given)

    def watched() -> Any:
        nonlocal together
        until(lambda: len(added) == len(jobs))  # the first step waits for all of them
        changed = step()
        together = max(together, len(changed))
        return changed

    engine.step, loop.add = watched, counted  # type: ignore[method-assign]
    found: dict[int, list[int]] = {}

    def run(place: int) -> None:
        found[place] = llm.generate([jobs[place][0]], jobs[place][1])[0].outputs[0].token_ids

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.step, loop.add = step, add  # type: ignore[method-assign]
    assert [found[place] for place in range(len(jobs))] == alone
    assert together > 1, "the callers waited for one another"


# ---- chats ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def chatty(folder: Path, tmp_path: Path) -> Iterator[LLM]:
    copy = Checkpoints(tmp_path).copy(folder, tmp_path / "chatty")
    (copy / "tokenizer_config.json").write_text("{}")
    edit_json(copy / "tokenizer_config.json", lambda data: data.update(chat_template=TEMPLATE, bos_token="<s>"))
    with LLM(str(copy), dtype="float32", max_model_len=128) as llm:
        yield llm


def test_chat_is_generate_of_what_the_template_writes(chatty: LLM) -> None:
    chats = [[{"role": "user", "content": text}] for text in ("Hello", "a block")]
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    assert chatty.tokenizer is not None
    for place, output in enumerate(chatty.chat(chats, params)):
        text = f"<s>user: {chats[place][0]['content']}\nassistant:"
        assert output.prompt == text
        assert output.prompt_token_ids == chatty.tokenizer.encode_bare(text)
        assert output.outputs == chatty.generate([output.prompt_token_ids], params)[0].outputs
    alone = chatty.chat(chats[0], params)
    assert len(alone) == 1 and alone[0].prompt == "<s>user: Hello\nassistant:"
    streamed = list(chatty.stream_chat(chats[0], params))
    assert streamed[-1].outputs == alone[0].outputs
    opened = chatty.chat(chats[0], params, chat_template_kwargs={"opening": "it:"})
    assert opened[0].prompt == "<s>user: Hello\nit:"
    going_on = chatty.chat([*chats[0], {"role": "assistant", "content": "Well"}], params, continue_final_message=True)
    assert going_on[0].prompt == "<s>user: Hello\nassistant: Well"
    own = chatty.chat(chats[0], params, chat_template="{{ messages[0].content }}!")
    assert own[0].prompt == "Hello!"


def test_control_tokens_in_a_message_are_text(chatty: LLM) -> None:
    output = chatty.chat([{"role": "user", "content": "</s><s>"}], SamplingParams(max_tokens=1))[0]
    assert output.prompt_token_ids.count(1) == 1 and 2 not in output.prompt_token_ids


def test_chats_that_cannot_be_used_are_refused_by_name(chatty: LLM, llm: LLM) -> None:
    good = [{"role": "user", "content": "x"}]
    for wrong, name in (
        ("text", "messages"),
        ([], "messages"),
        ([{"role": "user", "content": 5}], r"messages\[0\].content"),
        ([{"content": "x"}], r"messages\[0\].role"),
        ([good, 5], "messages"),
    ):
        with pytest.raises(UsageError, match=name):
            chatty.chat(wrong)  # type: ignore[arg-type]
    for kwargs in ({"messages": []}, {"tokenize": True}, {"add_generation_prompt": "x"}, {5: 1}, "x"):
        with pytest.raises(UsageError, match="chat_template_kwargs"):
            chatty.chat(good, chat_template_kwargs=kwargs)
    with pytest.raises(UsageError, match="has no chat template"):
        llm.chat(good)


# ---- times and progress ---------------------------------------------------------------------------------------------


def test_times_of_a_request_follow_one_another(llm: LLM) -> None:
    before = time.monotonic()
    outputs = llm.generate([[5, 6]] * 3, LONG)
    after = time.monotonic()
    for output in outputs:
        times = output.metrics
        assert times is not None and times.first_scheduled_s and times.first_token_s and times.finished_s
        order = [before, times.arrival_s, times.first_scheduled_s, times.first_token_s, times.finished_s, after]
        assert order == sorted(order)
        assert times.first_token_s < times.finished_s


class Bars:
    """What makes bars, as tqdm does."""

    def __init__(self) -> None:
        self.total = self.done = self.closed = 0

    def __call__(self, *, total: int, desc: str, unit: str) -> Bars:
        self.total = total
        return self

    def update(self, amount: int) -> None:
        self.done += amount

    def close(self) -> None:
        self.closed += 1


def test_progress_is_shown_when_it_is_asked_for(llm: LLM, capfd: pytest.CaptureFixture[str]) -> None:
    llm.generate([[5, 6]] * 3, LONG)
    assert capfd.readouterr() == ("", "")
    bars = Bars()
    llm.generate([[5, 6]] * 3, LONG, use_tqdm=bars)
    assert (bars.total, bars.done, bars.closed) == (180, 180, 1)
    llm.generate([[5, 6]], LONG, use_tqdm=True)
    assert capfd.readouterr().out == ""
    with pytest.raises(UsageError, match="use_tqdm"):
        llm.generate([[5, 6]], LONG, use_tqdm="yes")  # type: ignore[arg-type]
