"""Every sampling parameter in the whole engine, on every device: what it does, and that it is its request's alone."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from aphrodite import LLM, SamplingParams
from aphrodite.errors import ModelError, UsageError
from tests.support.checkpoints import EOS, VOCAB_SIZE, Checkpoints, edit_json, write_json
from tests.support.devices import DEVICES, require
from tests.support.engines import one_a_device
from tests.support.engines import roomy as engine
from tests.support.parity import random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]
PROMPTS = random_prompts((1, 5, 12, 30, 47, 21), seed=21)
PROMPT = PROMPTS[1]
MENU: tuple[dict[str, Any], ...] = (
    {},
    {"top_k": 5},
    {"top_p": 0.7, "temperature": 1.4},
    {"min_p": 0.2, "top_k": 40, "top_p": 0.9},
    {"repetition_penalty": 1.7},
    {"frequency_penalty": 1.5, "temperature": 0},
    {"presence_penalty": -2.0, "frequency_penalty": 0.5},
    {"logit_bias": {7: 6.0, 9: -100.0, 11: 5.0}},
    {"allowed_token_ids": list(range(30, 60)), "temperature": 2.0},
    {"bad_words": ["th", "e", "the "], "temperature": 0},
    {"min_tokens": 5, "stop_token_ids": list(range(100, 180)), "ignore_eos": False},
    {"repetition_penalty": 0.6, "logit_bias": {5: 3.0}, "min_p": 0.05, "logprobs": 4, "prompt_logprobs": 1},
    {"temperature": 0, "repetition_penalty": 1.3, "presence_penalty": 0.4, "allowed_token_ids": list(range(0, 300, 3))},
)


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


def menu(**changes: Any) -> tuple[list[list[int]], list[SamplingParams]]:
    """Requests with every parameter, each with its seed."""
    params = [
        SamplingParams(**{"seed": 100 + i, "max_tokens": 10, "ignore_eos": True, **given, **changes})
        for i, given in enumerate(MENU)
    ]
    return [PROMPTS[i % len(PROMPTS)] for i in range(len(MENU))], params


def result(output: Any) -> Any:
    """All that a request got."""
    return [
        (done.token_ids, done.finish_reason, done.stop_reason, done.logprobs, done.cumulative_logprob)
        for done in output.outputs
    ] + [output.prompt_logprobs]


def tokens_of(llm: LLM, prompt: Any, **params: Any) -> list[int]:
    return llm.generate([prompt], SamplingParams(**params))[0].outputs[0].token_ids


def first_tokens(llm: LLM, num: int, **params: Any) -> list[int]:
    """First tokens drawn after PROMPT by `num` seeds."""
    every = [SamplingParams(**{"max_tokens": 1, "ignore_eos": True, "seed": seed, **params}) for seed in range(num)]
    return [output.outputs[0].token_ids[0] for output in llm.generate([PROMPT] * num, every)]


# ------------------------------------------------------------------------------------------------- row isolation


def test_a_request_gets_the_same_tokens_alone_and_among_63_neighbours_with_any_parameters(llm: LLM) -> None:
    prompts, params = menu(max_tokens=6)
    num = len(prompts)
    others = [params[i % num].replace(seed=1000 + i) for i in range(num, 64)]
    together = llm.generate([prompts[i % num] for i in range(64)], [*params, *others])
    for i in range(num):
        (alone,) = llm.generate([prompts[i]], params[i])
        assert alone.outputs[0].token_ids == together[i].outputs[0].token_ids
        for mine, theirs in zip(alone.outputs[0].logprobs or (), together[i].outputs[0].logprobs or (), strict=True):
            assert [(t, e.rank) for t, e in mine.items()] == [(t, e.rank) for t, e in theirs.items()]
            # The model's own products may differ in their last places with the size of the batch.
            assert all(e.logprob == pytest.approx(theirs[t].logprob, abs=1e-5) for t, e in mine.items())


@pytest.mark.parametrize("seed", [1, 2])
def test_neighbours_parameters_change_no_bit_of_a_requests_result(seed: int, llm: LLM) -> None:
    # The same batch of prompts, so that the model gives the same logits: only the neighbours' parameters differ.
    prompts, params = menu(logprobs=3)
    plain = SamplingParams(temperature=0.8, seed=1, max_tokens=10, ignore_eos=True)
    full = llm.generate(prompts, params)
    for i in random.Random(seed).sample(range(len(prompts)), 3):
        if not params[i].ignore_eos:
            continue
        only = llm.generate(prompts, [params[i] if j == i else plain for j in range(len(prompts))])
        assert result(only[i])[0][0] == result(full[i])[0][0]


def test_chunks_rows_and_preemption_do_not_change_what_is_drawn(llm: LLM, device: str, folder: Path) -> None:
    prompts, params = menu(max_tokens=16)
    expected = [result(output)[0][0] for output in llm.generate(prompts, params)]
    with engine(folder, device, max_model_len=96, cache_tokens=112, max_num_batched_tokens=50) as other:
        assert [result(output)[0][0] for output in other.generate(prompts, params)] == expected
    with engine(folder, device, max_num_batched_tokens=17, max_num_seqs=3) as other:
        assert [result(output)[0][0] for output in other.generate(prompts, params)] == expected


def test_devices_draw_the_same_tokens(engines: Callable[[str], LLM]) -> None:
    prompts, params = menu()
    first, *others = [
        [result(output)[0][0] for output in engines(require(device)).generate(prompts, params)] for device in DEVICES
    ]
    assert all(other == first for other in others)


def test_a_row_of_a_finished_request_leaves_nothing_to_the_next(llm: LLM) -> None:
    expected = tokens_of(llm, PROMPT, temperature=1.0, seed=9, max_tokens=10, ignore_eos=True)
    prompts, params = menu()
    for _ in range(2):
        llm.generate(prompts, params)
        assert tokens_of(llm, PROMPT, temperature=1.0, seed=9, max_tokens=10, ignore_eos=True) == expected


# --------------------------------------------------------------------------------------------------- the meaning


def truth(logits: torch.Tensor, history: list[int], num_prompt: int, params: SamplingParams) -> np.ndarray[Any, Any]:
    """The probabilities to draw from, in float64, from the order and the formulas of the documentation."""
    row = logits.double().numpy().copy()
    if params.allowed_token_ids is not None:
        keep = np.zeros(len(row), bool)
        keep[list(params.allowed_token_ids)] = True
        row[~keep] = -np.inf
    for token, bias in params.logit_bias:
        row[token] += bias
    output = Counter(history[num_prompt:])
    for token in set(history):
        row[token] *= params.repetition_penalty if row[token] <= 0 else 1 / params.repetition_penalty
    for token, count in output.items():
        row[token] -= params.frequency_penalty * count + params.presence_penalty
    row /= params.temperature
    p = np.exp(row - row.max())
    p[p < params.min_p] = 0
    if params.top_k > 0:
        p[p < np.sort(p)[-params.top_k]] = 0
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= params.top_p]] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "given",
    [
        {"top_k": 12},
        {"top_p": 0.6, "temperature": 0.8},
        {"min_p": 0.15},
        {"repetition_penalty": 2.5},
        {"logit_bias": {3: 8.0, 40: 8.5, 41: -100.0}},
        {"allowed_token_ids": list(range(50, 80))},
        {"min_p": 0.02, "top_k": 30, "top_p": 0.8, "temperature": 1.6, "repetition_penalty": 1.4},
    ],
    ids=str,
)
def test_first_tokens_follow_the_documented_distribution(
    given: dict[str, Any], engines: Callable[[str], LLM], folder: Path, reference: Load
) -> None:
    num, logits = 1200, reference(folder).logits(PROMPT)[-1]
    p = truth(logits, PROMPT, len(PROMPT), SamplingParams(**given))
    seen = np.bincount(first_tokens(engines("cpu"), num, **given), minlength=VOCAB_SIZE)
    assert not seen[p == 0].any(), "nothing that was cut off is drawn"
    often = p * num >= 8
    groups = [*zip(seen[often], p[often] * num, strict=True), (seen[~often].sum(), p[~often].sum() * num)]
    statistic = sum((s - e) ** 2 / e for s, e in groups if e > 0)
    freedom = int(often.sum())
    print(f"seeds 0..{num - 1}, {given}: chi-square {statistic:.1f}, {freedom} degrees of freedom")
    assert statistic < freedom + 5 * (2 * max(freedom, 1)) ** 0.5


@pytest.mark.parametrize(
    "given",
    [
        {"repetition_penalty": 1.8},
        {"frequency_penalty": 1.1, "presence_penalty": 0.7},
        {"frequency_penalty": -2.0, "repetition_penalty": 1.1, "logit_bias": {10: 2.0}},
    ],
    ids=str,
)
def test_greedy_tokens_under_penalties_are_those_of_float64(
    given: dict[str, Any], llm: LLM, folder: Path, reference: Load
) -> None:
    drawn = tokens_of(llm, PROMPT, temperature=0, max_tokens=14, ignore_eos=True, **given)
    plain = tokens_of(llm, PROMPT, temperature=0, max_tokens=14, ignore_eos=True)
    assert drawn != plain, "the case shows nothing"
    history = list(PROMPT)
    for token in drawn:
        raw = reference(folder).logits(history)[-1]
        p = truth(raw, history, len(PROMPT), SamplingParams(**given))
        assert p[token] >= p.max() * (1 - 1e-3)
        history.append(token)


def test_reported_log_probabilities_are_those_of_the_models_own_logits(llm: LLM, folder: Path, reference: Load) -> None:
    given: dict[str, Any] = {"repetition_penalty": 3.0, "allowed_token_ids": [7, 8, 9, 10], "top_k": 2, "logprobs": 5}
    done = llm.generate([PROMPT], SamplingParams(seed=1, max_tokens=6, ignore_eos=True, **given))[0].outputs[0]
    raw = reference(folder).logprobs([*PROMPT, *done.token_ids])
    assert set(done.token_ids) <= {7, 8, 9, 10}
    for place, (token, entry) in enumerate(zip(done.token_ids, done.logprobs, strict=True)):
        row = raw[len(PROMPT) - 1 + place]
        assert entry[token].logprob == pytest.approx(row[token].item(), abs=1e-4)
        assert entry[token].rank == 1 + int((row > row[token]).sum())
        assert set(row.topk(5).indices.tolist()) <= set(entry)


def test_top_k_1_and_a_tiny_top_p_are_greedy(llm: LLM) -> None:
    greedy = tokens_of(llm, PROMPT, temperature=0, max_tokens=8, ignore_eos=True)
    for given in ({"top_k": 1}, {"top_p": 1e-6}, {"top_p": 1e-60}, {"min_p": 1.0}):
        assert tokens_of(llm, PROMPT, temperature=1.5, seed=3, max_tokens=8, ignore_eos=True, **given) == greedy


def test_min_tokens_holds_the_end_back_and_no_longer(llm: LLM) -> None:
    stops = list(range(20, 147))
    for least in (0, 1, 4, 9):
        for seed in range(4):
            params = SamplingParams(seed=seed, max_tokens=12, min_tokens=least, stop_token_ids=stops)
            done = llm.generate([PROMPT], params)[0].outputs[0]
            assert done.finish_reason == "length" or len(done.token_ids) > least
            assert all(token not in (*stops, EOS) for token in done.token_ids[: max(least, len(done.token_ids) - 1)])
    eos = {"logit_bias": {EOS: 100.0}, "temperature": 0, "max_tokens": 12}
    assert tokens_of(llm, PROMPT, **eos) == [EOS]
    held = tokens_of(llm, PROMPT, min_tokens=7, **eos)
    assert len(held) == 8 and held[-1] == EOS and EOS not in held[:-1]


def test_bad_words_never_appear_and_the_rest_goes_on(llm: LLM, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # Only letters of two words, at a high temperature: without the ban they appear at once.
    letters = sorted({token for text in ("the", " the", "a", " a") for token in tokenizer.encode(text).ids[1:]})
    letters = sorted({*letters, *(tokenizer.token_to_id(piece) for piece in ("t", "h", "e", "a", "Ġ"))})
    params: dict[str, Any] = {"temperature": 50.0, "max_tokens": 40, "ignore_eos": True, "allowed_token_ids": letters}
    free = tokenizer.decode(tokens_of(llm, PROMPT, seed=1, **params))
    assert "the" in free and "a" in free
    words = tokenizer.encode("the").ids[1:], tokenizer.encode(" the").ids[1:], tokenizer.encode("a").ids[1:]
    many = [SamplingParams(seed=seed, bad_words=["the", "a"], **params) for seed in range(8)]
    for output in llm.generate([PROMPT] * 8, many):
        ids = output.outputs[0].token_ids
        assert len(ids) == 40
        for word in words:
            assert all(ids[i : i + len(word)] != word for i in range(len(ids))), (word, ids)


def test_a_word_of_several_tokens_is_stopped_at_its_last_and_only_then(llm: LLM, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "xqz"
    word = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(word) == 3
    bias = {"logit_bias": dict.fromkeys(word, 100.0), "temperature": 5.0, "max_tokens": 80, "ignore_eos": True}
    ids = tokens_of(llm, PROMPT, seed=2, bad_words=[text], **bias)
    assert all(ids[i : i + 3] != word for i in range(len(ids)))
    assert any(ids[i : i + 2] == word[:2] for i in range(len(ids))) and ids.count(word[2]) > 5


def test_a_request_whose_tokens_are_all_forbidden_on_the_way_fails_alone(llm: LLM, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    first, second = tokenizer.encode("xq", add_special_tokens=False).ids
    stuck = SamplingParams(allowed_token_ids=[first], bad_words=["xx"], max_tokens=5)
    plain = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    assert second != first
    bad, good = llm.generate([PROMPT, PROMPT], [stuck, plain])
    assert (bad.outputs[0].token_ids, bad.outputs[0].finish_reason) == ([first], "error")
    assert good.outputs[0].token_ids == tokens_of(llm, PROMPT, temperature=0, max_tokens=5, ignore_eos=True)


def test_max_tokens_none_goes_on_to_max_model_len(llm: LLM) -> None:
    done = llm.generate([PROMPT], SamplingParams(temperature=0, max_tokens=None, ignore_eos=True))[0].outputs[0]
    assert (len(PROMPT) + len(done.token_ids), done.finish_reason) == (200, "length")


# ------------------------------------------------------------------------------------------------------------- n


def test_n_gives_so_many_continuations_each_in_a_lane_of_its_own(llm: LLM) -> None:
    params = SamplingParams(n=5, seed=7, max_tokens=8, ignore_eos=True, logprobs=1, prompt_logprobs=2)
    output, other = llm.generate([PROMPT, PROMPTS[0]], params)
    for one in (output, other):
        assert [done.index for done in one.outputs] == list(range(5))
        assert len({tuple(done.token_ids) for done in one.outputs}) == 5
        assert all(len(done.logprobs) == 8 and done.finish_reason == "length" for done in one.outputs)
    assert len(output.prompt_logprobs) == len(PROMPT)
    assert output.outputs[0].token_ids == tokens_of(llm, PROMPT, seed=7, max_tokens=8, ignore_eos=True)
    fewer = llm.generate([PROMPT], params.replace(n=3))[0]
    assert [d.token_ids for d in fewer.outputs] == [d.token_ids for d in output.outputs[:3]]
    assert [output.request_id, other.request_id] == [str(int(output.request_id)), str(int(output.request_id) + 1)]


def test_children_survive_preemption_and_small_steps(llm: LLM, folder: Path, device: str) -> None:
    params = SamplingParams(n=6, seed=3, max_tokens=12, ignore_eos=True, presence_penalty=1.0)
    expected = [done.token_ids for done in llm.generate([PROMPTS[3]], params)[0].outputs]
    with engine(folder, device, max_model_len=96, cache_tokens=112, max_num_seqs=4) as other:
        assert [done.token_ids for done in other.generate([PROMPTS[3]], params)[0].outputs] == expected


def test_children_follow_the_distribution_as_seeds_do(llm: LLM, folder: Path, reference: Load) -> None:
    outputs = llm.generate([PROMPT] * 16, [SamplingParams(n=64, seed=s, max_tokens=1, top_k=4) for s in range(16)])
    seen = np.bincount([done.token_ids[0] for one in outputs for done in one.outputs], minlength=VOCAB_SIZE)
    p = truth(reference(folder).logits(PROMPT)[-1], PROMPT, len(PROMPT), SamplingParams(top_k=4))
    assert not seen[p == 0].any()
    assert (((seen - p * 1024) ** 2)[p > 0] / (p * 1024)[p > 0]).sum() < 25  # 3 degrees of freedom


def test_greedy_continuations_are_equal_copies(llm: LLM) -> None:
    params = SamplingParams(n=3, temperature=0, max_tokens=4, ignore_eos=True, logprobs=1)
    outputs = llm.generate([PROMPT], params)[0].outputs
    assert [done.index for done in outputs] == [0, 1, 2]
    assert all(done.token_ids == outputs[0].token_ids and done.logprobs == outputs[0].logprobs for done in outputs)
    assert outputs[0].token_ids is not outputs[1].token_ids, "a caller may change one"


# --------------------------------------------------------------------------------------------- generation config


LLAMA_3 = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "max_new_tokens": 3}


def test_defaults_of_the_model_hold_for_what_the_caller_leaves_out(checkpoints: Checkpoints, device: str) -> None:
    folder = checkpoints.llama(seed=13, generation=LLAMA_3)
    given = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "max_tokens": 3, "ignore_eos": True, "seed": 5}
    with engine(folder, device) as llm:
        assert dict(llm.sampling_defaults) == {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "max_tokens": 3}
        assert "temperature 0.6, top_k 20, top_p 0.9, max_tokens 3: from" in llm.blueprint.reasons["sampling"]
        left_out = tokens_of(llm, PROMPT, seed=5, ignore_eos=True)
        own = tokens_of(llm, PROMPT, temperature=0, max_tokens=6, ignore_eos=True)
        assert len(left_out) == 3 and len(own) == 6
    for setting in ("none", "auto"):
        with engine(folder, device, generation_config=setting) as llm:
            assert bool(llm.sampling_defaults) is (setting == "auto")
            assert tokens_of(llm, PROMPT, **given) == left_out
            assert len(tokens_of(llm, PROMPT, ignore_eos=True)) == (16 if setting == "none" else 3)
            assert tokens_of(llm, PROMPT, temperature=0, max_tokens=6, ignore_eos=True) == own
            assert tokens_of(llm, PROMPT, temperature=0, logit_bias={EOS: 100}) == [EOS], "its end tokens always hold"


def test_a_generation_config_may_lie_elsewhere(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = checkpoints.llama(seed=13)
    write_json(tmp_path / "mine.json", {"temperature": 0, "max_new_tokens": 2, "eos_token_id": [40]})
    write_json(tmp_path / "generation_config.json", {"min_p": 0.5, "repetition_penalty": 1.2})
    with engine(folder, "cpu", generation_config=str(tmp_path / "mine.json")) as llm:
        assert dict(llm.sampling_defaults) == {"temperature": 0.0, "max_tokens": 2}
        assert len(tokens_of(llm, PROMPT, ignore_eos=True)) == 2
        assert tokens_of(llm, PROMPT, logit_bias={40: 100}) == [40]
    with engine(folder, "cpu", generation_config=str(tmp_path)) as llm:
        assert dict(llm.sampling_defaults) == {"min_p": 0.5, "repetition_penalty": 1.2}
    with pytest.raises(UsageError, match="generation_config must be auto, none, or the path") as caught:
        engine(folder, "cpu", generation_config=str(tmp_path / "absent"))
    assert caught.value.subject == "generation_config"


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"top_k": 1.5}, {"max_new_tokens": "x"}], ids=str)
def test_a_wrong_default_is_the_models_fault_and_can_be_left_out(
    wrong: dict[str, Any], checkpoints: Checkpoints, tmp_path: Path
) -> None:
    folder = checkpoints.copy(checkpoints.llama(seed=13), tmp_path / "copy")
    edit_json(folder / "generation_config.json", lambda data: data.update(wrong))
    with pytest.raises(ModelError, match=r"generation_config\.json: .* must be .*; mend it, or pass"):
        engine(folder, "cpu")
    engine(folder, "cpu", generation_config="none").close()


def test_what_a_generation_config_says_and_we_do_not_do_is_said(checkpoints: Checkpoints) -> None:
    said = {"typical_p": 0.5, "do_sample": False, "num_beams": 1, "top_k": None}
    folder = checkpoints.llama(seed=13, generation=said)
    with engine(folder, "cpu") as llm:
        assert any("also sets do_sample, typical_p, which has no effect" in note for note in llm.blueprint.notes)
        assert llm.sampling_defaults == {}


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"allowed_token_ids": [VOCAB_SIZE]}, f"allowed_token_ids must be in 0..{VOCAB_SIZE - 1}, got {VOCAB_SIZE}"),
        ({"logit_bias": {VOCAB_SIZE: 1.0}}, f"logit_bias must be in 0..{VOCAB_SIZE - 1}, got {VOCAB_SIZE}"),
        ({"min_tokens": 17}, "min_tokens must be in 0..max_tokens, which is 16, got 17"),
    ],
    ids=str,
)
def test_a_bad_request_is_refused_and_leaves_the_engine_as_it_was(
    given: dict[str, Any], message: str, llm: LLM
) -> None:
    expected = tokens_of(llm, PROMPT, temperature=0)
    with pytest.raises(UsageError) as caught:
        llm.generate([PROMPT, PROMPT], [SamplingParams(), SamplingParams(**given)])
    assert message in str(caught.value)
    assert tokens_of(llm, PROMPT, temperature=0) == expected


def test_bad_words_without_a_tokenizer_are_refused(checkpoints: Checkpoints) -> None:
    refused = pytest.raises(UsageError, match=r"bad_words must be absent .* got \['x'\]")
    with engine(checkpoints.llama(seed=13, tokenizer=False), "cpu") as llm, refused:
        llm.generate([PROMPT], SamplingParams(bad_words=["x"]))


def test_flags_reach_the_draw(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from aphrodite.cli.main import main

    def printed(*flags: str) -> Any:
        prompt = ",".join(map(str, PROMPT))
        shared = ("--token-ids", prompt, "--json", "--quiet", "--device", "cpu", "--max-model-len", "200")
        assert main(["generate", str(folder), *shared, *flags]) == 0
        return [done["token_ids"] for done in json.loads(capsys.readouterr().out)["outputs"][0]["outputs"]]

    assert printed("--logit-bias", "7=100,9=90", "--temperature", "0", "--max-tokens", "2") == [[7, 7]]
    assert printed("--allowed-token-ids", "5", "--max-tokens", "2", "--n", "2") == [[5, 5], [5, 5]]
    assert len(printed("--bad-words", "a", "--bad-words", "b", "--generation-config", "none", "--top-k", "1")[0]) >= 1
