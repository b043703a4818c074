"""Drawing in the whole engine: what a request gets depends on the request alone, and follows the distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from aphrodite import LLM, SamplingParams
from tests.support.checkpoints import EOS, VOCAB_SIZE, Checkpoints, edit_json
from tests.support.devices import DEVICES, require
from tests.support.engines import one_a_device
from tests.support.engines import roomy as engine
from tests.support.parity import Differences, check_position, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]
PROMPTS = random_prompts((1, 5, 12, 30, 47, 70), seed=11)


@pytest.fixture(scope="module")
def folder(checkpoints: Checkpoints) -> Path:
    return checkpoints.llama(attention_bias=True, seed=12)


@pytest.fixture(scope="module")
def engines(folder: Path) -> Iterator[Callable[[str], LLM]]:
    """One engine a device, shared by the tests that only generate."""
    with one_a_device(lambda device: engine(folder, device)) as get:
        yield get


@pytest.fixture
def llm(engines: Callable[[str], LLM], device: str) -> LLM:
    return engines(device)


def drawn(llm: LLM, prompts: Sequence[Sequence[int]], params: Any) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in llm.generate(prompts, params)]


def one(llm: LLM, prompt: Any, **params: Any) -> Any:
    """The completion of one greedy request."""
    return llm.generate([prompt], SamplingParams(**{"temperature": 0, **params}))[0].outputs[0]


def seeded(**changes: Any) -> list[SamplingParams]:
    """Parameters for PROMPTS: warm, hot and greedy ones beside each other, each with its seed."""
    temperatures = (0.7, 1.0, 0.0, 1.5, 0.3, 1.0)
    return [
        SamplingParams(**{"temperature": t, "seed": 100 + i, "max_tokens": 12, "ignore_eos": True, **changes})
        for i, t in enumerate(temperatures)
    ]


# ---------------------------------------------------------------------------------------------- repeatable draws


def test_same_request_gives_the_same_tokens_alone_and_among_others(llm: LLM) -> None:
    together = drawn(llm, PROMPTS, seeded())
    alone = [drawn(llm, [prompt], params)[0] for prompt, params in zip(PROMPTS, seeded(), strict=True)]
    backwards = drawn(llm, PROMPTS[::-1], seeded()[::-1])[::-1]
    assert together == alone == backwards


@pytest.mark.parametrize(
    "settings",
    [
        {"max_num_batched_tokens": 7},
        {"max_num_batched_tokens": 33, "max_num_seqs": 3},
        {"max_num_seqs": 1},
        {"max_model_len": 96, "cache_tokens": 112, "max_num_batched_tokens": 50},
    ],
    ids=str,
)
def test_chunks_rows_and_preemption_do_not_change_what_is_drawn(
    settings: dict[str, Any], llm: LLM, device: str, folder: Path
) -> None:
    with engine(folder, device, **settings) as other:
        assert drawn(other, PROMPTS, seeded()) == drawn(llm, PROMPTS, seeded())


def test_devices_draw_the_same_tokens(engines: Callable[[str], LLM]) -> None:
    first, *others = [drawn(engines(require(device)), PROMPTS, seeded(max_tokens=30)) for device in DEVICES]
    assert all(other == first for other in others)


def test_asking_for_log_probabilities_does_not_change_what_is_drawn(llm: LLM) -> None:
    assert drawn(llm, PROMPTS, seeded(logprobs=3, prompt_logprobs=2)) == drawn(llm, PROMPTS, seeded())


def test_seeds_give_different_texts(llm: LLM) -> None:
    params = [
        SamplingParams(temperature=1.0, seed=seed, max_tokens=8, ignore_eos=True)
        for seed in (0, 1, 2, 3, 2**31, 2**32, 2**32 + 1, 2**63 - 1)
    ]
    texts = drawn(llm, [PROMPTS[1]] * len(params), params)
    assert len({tuple(text) for text in texts}) == len(params)


def test_requests_without_a_seed_differ_and_engines_with_one_seed_repeat(folder: Path, device: str) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=8, ignore_eos=True)
    texts = []
    for seed in (1, 1, 2):
        with engine(folder, device, seed=seed) as llm:
            texts.append(drawn(llm, [PROMPTS[1]] * 3, params))
    assert texts[0] == texts[1] != texts[2]
    assert len({tuple(text) for text in texts[0]}) == 3
    with engine(folder, device, seed=1) as llm:
        explicit = SamplingParams(temperature=1.0, max_tokens=8, ignore_eos=True, seed=-1)
        assert drawn(llm, [PROMPTS[1]] * 3, explicit) == texts[0]


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-37, 1e-38, 1e-40, 1e-45, 1e-300])
def test_tiny_temperature_is_greedy(temperature: float, llm: LLM) -> None:
    params = SamplingParams(temperature=temperature, seed=3, max_tokens=8, ignore_eos=True)
    greedy = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    assert drawn(llm, PROMPTS, params) == drawn(llm, PROMPTS, greedy)


@pytest.mark.parametrize("temperature", [1e4, 3e38, 1e300])
def test_huge_temperature_draws_from_everything(temperature: float, llm: LLM) -> None:
    params = [SamplingParams(temperature=temperature, seed=seed, max_tokens=1) for seed in range(64)]
    tokens = [text[0] for text in drawn(llm, [PROMPTS[1]] * 64, params)]
    assert len(set(tokens)) > 40


# -------------------------------------------------------------------------------------------------- distribution


def chi_square(tokens: Sequence[int], probabilities: torch.Tensor) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; tokens expected fewer than 8 times are one class."""
    expected = probabilities * len(tokens)
    seen = torch.zeros_like(expected)
    for token, count in Counter(tokens).items():
        seen[token] = count
    often = expected >= 8
    groups = [(seen[often], expected[often]), (seen[~often].sum()[None], expected[~often].sum()[None])]
    total = sum(((s - e) ** 2 / e).sum().item() for s, e in groups if e.sum() > 0)
    return total, int(often.sum())


@pytest.mark.parametrize(("temperature", "first_seed"), [(0.5, 0), (1.0, 0), (1.0, 2**40), (1.7, 2**62)])
def test_draws_follow_the_softmax_of_the_scaled_logits(
    temperature: float, first_seed: int, llm: LLM, folder: Path, reference: Load
) -> None:
    num = 2000
    prompt = PROMPTS[0]
    params = [
        SamplingParams(temperature=temperature, seed=first_seed + i, max_tokens=1, ignore_eos=True) for i in range(num)
    ]
    tokens = [text[0] for text in drawn(llm, [prompt] * num, params)]
    expected = (reference(folder).logprobs(prompt)[-1] / temperature).softmax(-1)
    statistic, freedom = chi_square(tokens, expected)
    print(f"seeds {first_seed} on, temperature {temperature}: chi-square {statistic:.1f}, {freedom} degrees of freedom")
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_second_token_follows_its_distribution_given_the_first(llm: LLM, folder: Path, reference: Load) -> None:
    num, prompt = 1500, PROMPTS[0]
    params = [SamplingParams(temperature=0.6, seed=i, max_tokens=2, ignore_eos=True) for i in range(num)]
    texts = drawn(llm, [prompt] * num, params)
    first, _ = Counter(text[0] for text in texts).most_common(1)[0]
    seconds = [text[1] for text in texts if text[0] == first]
    expected = (reference(folder).logprobs([*prompt, first])[-1] / 0.6).softmax(-1)
    statistic, freedom = chi_square(seconds, expected)
    print(f"after token {first}: {len(seconds)} draws, chi-square {statistic:.1f}, {freedom} degrees of freedom")
    assert len(seconds) > 150
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


# --------------------------------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("count", [0, 3, 20])
def test_log_probabilities_have_the_ids_ranks_and_values_of_transformers(
    count: int, temperature: float, llm: LLM, folder: Path, reference: Load
) -> None:
    # They are those of the logits as they are: temperature changes the draw, not what is reported.
    params = SamplingParams(
        temperature=temperature, seed=5, max_tokens=10, ignore_eos=True, logprobs=count, prompt_logprobs=count
    )
    found = Differences()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for prompt, output in zip(PROMPTS, llm.generate(PROMPTS, params), strict=True):
        completion = output.outputs[0]
        text = [*prompt, *completion.token_ids]
        truth = reference(folder).logprobs(text)
        assert output.prompt_logprobs is not None
        assert output.prompt_logprobs[0] is None
        entries = [*output.prompt_logprobs[1:], *completion.logprobs]
        for place, (token, given) in enumerate(zip(text[1:], entries, strict=True)):
            check_position(given, token, truth[place], found, f"position {place + 1}", top=count)
            for other, entry in given.items():
                assert entry.decoded_token == tokenizer.decode([other], skip_special_tokens=False)
        chosen = [entry[token].logprob for entry, token in zip(completion.logprobs, completion.token_ids, strict=True)]
        assert completion.cumulative_logprob == pytest.approx(sum(chosen))
    found.require(1e-4)
    print(f"largest difference {found.largest:.2e}")


def test_log_probabilities_are_absent_unless_asked_for(llm: LLM) -> None:
    plain, sample, prompt = llm.generate(
        [PROMPTS[1]] * 3,
        [
            SamplingParams(temperature=0, max_tokens=2),
            SamplingParams(temperature=0, max_tokens=2, logprobs=0),
            SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=0),
        ],
    )
    assert plain.outputs[0].logprobs is None
    assert plain.outputs[0].cumulative_logprob is None
    assert plain.prompt_logprobs is None
    assert [len(entry) for entry in sample.outputs[0].logprobs] == [1, 1]
    assert sample.prompt_logprobs is None
    assert prompt.outputs[0].logprobs is None
    assert [entry and len(entry) for entry in prompt.prompt_logprobs] == [None, 1, 1, 1, 1]


def test_each_request_of_a_batch_gets_as_many_log_probabilities_as_it_asked_for(llm: LLM) -> None:
    counts = [None, 0, 3, 20, 1]
    params = [SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, logprobs=n) for n in counts]
    for count, output in zip(counts, llm.generate([PROMPTS[2]] * 5, params), strict=True):
        logprobs = output.outputs[0].logprobs
        if count is None:
            assert logprobs is None
        else:
            assert [len(entry) for entry in logprobs] == [max(count, 1)] * 3  # the chosen one is the likeliest


def test_prompt_of_one_token_has_one_absent_entry(llm: LLM) -> None:
    output = llm.generate([[7]], SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=2))[0]
    assert output.prompt_logprobs == [None]


def test_vocabulary_smaller_than_the_log_probabilities_asked_for(checkpoints: Checkpoints, device: str) -> None:
    folder = checkpoints.llama(vocab_size=9, tokenizer=False)
    with engine(folder, device) as llm:
        params = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True, logprobs=20)
        logprobs = llm.generate([[3, 4, 5]], params)[0].outputs[0].logprobs
    assert [sorted(entry) for entry in logprobs] == [list(range(9))] * 2
    assert [sorted(e.rank for e in entry.values()) for entry in logprobs] == [list(range(1, 10))] * 2


# --------------------------------------------------------------------------------------------- how requests end


def test_length_and_reasons_without_an_end_token(llm: LLM) -> None:
    done = one(llm, PROMPTS[1], max_tokens=5, ignore_eos=True)
    assert (len(done.token_ids), done.finish_reason, done.stop_reason) == (5, "length", None)


def test_stop_token_ends_the_request_and_is_its_reason(llm: LLM) -> None:
    free = one(llm, PROMPTS[1], max_tokens=10, ignore_eos=True).token_ids
    stop = free[4]
    end = free.index(stop) + 1
    done = one(llm, PROMPTS[1], max_tokens=10, ignore_eos=True, stop_token_ids=[stop, 299])
    assert (done.token_ids, done.finish_reason, done.stop_reason) == (free[:end], "stop", stop)


def test_stop_token_as_the_last_allowed_token_is_a_stop(llm: LLM) -> None:
    free = one(llm, PROMPTS[1], max_tokens=10, ignore_eos=True).token_ids
    end = free.index(free[4]) + 1
    done = one(llm, PROMPTS[1], max_tokens=end, ignore_eos=True, stop_token_ids=[free[4]])
    assert (len(done.token_ids), done.finish_reason) == (end, "stop")


def greedy_tokens(checkpoints: Checkpoints, device: str) -> list[int]:
    with engine(checkpoints.llama(seed=13), device) as llm:
        return one(llm, PROMPTS[2], max_tokens=10, ignore_eos=True).token_ids


@pytest.mark.parametrize("listed", [False, True])
def test_end_tokens_come_from_generation_config(checkpoints: Checkpoints, device: str, listed: bool) -> None:
    free = greedy_tokens(checkpoints, device)
    eos = free[3]
    end = free.index(eos) + 1
    folder = checkpoints.llama(seed=13, generation={"eos_token_id": [eos, EOS] if listed else eos})
    with engine(folder, device) as llm:
        done = one(llm, PROMPTS[2], max_tokens=10)
        assert (done.token_ids, done.finish_reason, done.stop_reason) == (free[:end], "stop", None)
        on = one(llm, PROMPTS[2], max_tokens=10, ignore_eos=True)
        assert (on.token_ids, on.finish_reason) == (free, "length")


def test_end_token_of_config_holds_without_a_generation_config(
    checkpoints: Checkpoints, device: str, tmp_path: Path
) -> None:
    free = greedy_tokens(checkpoints, device)
    folder = checkpoints.copy(checkpoints.llama(seed=13), tmp_path / "copy")
    (folder / "generation_config.json").unlink()
    edit_json(folder / "config.json", lambda data: data.update(eos_token_id=free[2]))
    with engine(folder, device) as llm:
        done = one(llm, PROMPTS[2], max_tokens=10)
    assert (done.token_ids, done.finish_reason) == (free[: free.index(free[2]) + 1], "stop")


def test_generation_config_goes_before_config(checkpoints: Checkpoints, device: str, tmp_path: Path) -> None:
    free = greedy_tokens(checkpoints, device)
    folder = checkpoints.copy(checkpoints.llama(seed=13), tmp_path / "copy")  # its generation config says EOS
    edit_json(folder / "config.json", lambda data: data.update(eos_token_id=free[2]))
    with engine(folder, device) as llm:
        assert one(llm, PROMPTS[2], max_tokens=10).token_ids == free


@pytest.mark.parametrize("room", [1, 2, 5])
def test_longest_sequence_ends_with_length(room: int, folder: Path, device: str) -> None:
    prompt = PROMPTS[3]
    with engine(folder, device, max_model_len=len(prompt) + room) as llm:
        done = one(llm, prompt, max_tokens=1000, ignore_eos=True)
        assert (len(done.token_ids), done.finish_reason) == (room, "length")
        fewer = one(llm, prompt, max_tokens=room, ignore_eos=True)
        assert fewer.token_ids == done.token_ids


def test_requests_of_a_batch_end_each_in_its_own_time(llm: LLM) -> None:
    counts = [1, 9, 3, 7, 2, 16]
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in counts]
    longest = drawn(llm, PROMPTS, SamplingParams(temperature=0, max_tokens=16, ignore_eos=True))
    assert drawn(llm, PROMPTS, params) == [text[:n] for text, n in zip(longest, counts, strict=True)]


# ----------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("skip", [True, False])
def test_text_is_the_decoding_of_all_ids(skip: bool, llm: LLM, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    params = [
        SamplingParams(temperature=t, seed=i, max_tokens=24, ignore_eos=True, skip_special_tokens=skip)
        for i, t in enumerate((0.0, 1.0, 2.0, 5.0, 5.0, 5.0))
    ]
    for output in llm.generate(PROMPTS, params):
        done = output.outputs[0]
        assert done.text == tokenizer.decode(done.token_ids, skip_special_tokens=skip)


def test_text_of_a_request_ended_by_its_end_token_is_the_decoding_of_all_ids(
    checkpoints: Checkpoints, device: str
) -> None:
    # The end token is special, as in every real checkpoint, and left out with the other special tokens.
    folder = checkpoints.llama(seed=13)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with engine(folder, device) as llm:
        params = [SamplingParams(temperature=3.0, seed=i, max_tokens=30) for i in range(60)]
        ended = [
            output.outputs[0]
            for output in llm.generate([PROMPTS[1]] * 60, params)
            if output.outputs[0].finish_reason == "stop"
        ]
    assert ended, "no seed met the end token"
    for done in ended:
        assert done.token_ids[-1] == EOS
        assert done.stop_reason is None
        assert done.text == tokenizer.decode(done.token_ids)


def test_special_token_of_the_vocabulary_is_hidden_or_shown_as_asked(llm: LLM, folder: Path) -> None:
    params = [
        SamplingParams(temperature=50.0, seed=i, max_tokens=30, ignore_eos=True, skip_special_tokens=i % 2 == 0)
        for i in range(60)
    ]
    outputs = [output.outputs[0] for output in llm.generate([PROMPTS[1]] * 60, params)]
    shown = [o for o, p in zip(outputs, params, strict=True) if EOS in o.token_ids and not p.skip_special_tokens]
    hidden = [o for o, p in zip(outputs, params, strict=True) if EOS in o.token_ids and p.skip_special_tokens]
    assert shown
    assert hidden
    assert all("</s>" in done.text for done in shown)
    assert all("</s>" not in done.text for done in hidden)


def test_prompt_ids_come_back_with_the_special_tokens_of_the_tokenizer(llm: LLM, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "Grüße aus der Küche \U0001f600 \x00 end"
    output = llm.generate(text, SamplingParams(temperature=0, max_tokens=1))[0]
    assert output.prompt == text
    assert output.prompt_token_ids == tokenizer.encode(text).ids
    assert max(output.prompt_token_ids) < VOCAB_SIZE
