"""The model in the box: found by its name, equal to Transformers, and able to do what its card says."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import card
from aphrodite import LLM, SamplingParams
from aphrodite.weights import sources
from corpus import arithmetic, chats, dates, facts, fields, lists, stories, tools
from corpus.exchange import Exchange
from corpus.template import BEGIN, render
from tests.support.cli import aphrodite, refused
from tests.support.devices import DEVICES, require
from tests.support.engines import one_a_device
from tests.support.reference import Reference

MODELS = ("demo", "demo-draft")
MAKERS: tuple[Callable[[random.Random, bool], Exchange], ...] = (
    arithmetic.sums, arithmetic.difference, fields.exchange, dates.exchange, lists.exchange, facts.exchange,
    tools.exchange,
)  # fmt: skip
MOST_BYTES = 16_000_000
GREEDY = SamplingParams(temperature=0.0, max_tokens=160)
Loaded = Callable[[str], LLM]


def folder(name: str) -> Path:
    found = sources.folder_of(name)
    assert found is not None, "install it: pip install --no-deps -e examples/demo_model"
    return found


@pytest.fixture(scope="module")
def demo() -> Iterator[Loaded]:
    with one_a_device(lambda device: LLM("demo", device=device, dtype="float32", max_num_seqs=32)) as get:
        yield get


@pytest.fixture(params=DEVICES)
def llm(request: pytest.FixtureRequest, demo: Loaded) -> LLM:
    return demo(require(request.param))


@pytest.fixture
def on_cpu(demo: Loaded) -> LLM:
    return demo("cpu")


def asked(make: Callable[[random.Random, bool], Exchange], count: int, seed: str) -> list[Exchange]:
    rng = random.Random(seed)
    return [make(rng, True) for _ in range(count)]


def prompt_of(exchange: Exchange) -> str:
    messages = [*exchange.before, {"role": "user", "content": exchange.user}]
    return render(messages, exchange.tools, open_answer=True)


def held_out_prompts() -> list[str]:
    """Two dozen: questions of every kind, and beginnings of stories."""
    rng = random.Random("prompts")
    prompts = [prompt_of(made) for make in MAKERS for made in asked(make, 3, "prompts")]
    return [*prompts, *(BEGIN + stories.story(rng, True).sentences[0] for _ in range(4))]


def bare(llm: LLM, prompts: list[str]) -> list[Any]:
    """Prompts that bring their own begin token."""
    tokenizer = llm.tokenizer
    assert tokenizer is not None
    return [{"prompt_token_ids": tokenizer.encode_bare(prompt)} for prompt in prompts]


def texts(llm: LLM, exchanges: list[Exchange]) -> list[tuple[str, str | None]]:
    outputs = llm.generate(bare(llm, [prompt_of(made) for made in exchanges]), GREEDY)
    return [(output.outputs[0].text, output.outputs[0].finish_reason) for output in outputs]


def check_greedy(llm: LLM, theirs: Reference, texts: list[str]) -> None:
    """Each token is the one that Transformers finds likeliest behind those before it: greedy, in one pass a prompt."""
    prompts = bare(llm, texts)
    outputs = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True))
    for text, prompt, output in zip(texts, prompts, outputs, strict=True):
        ids, ours = prompt["prompt_token_ids"], list(output.outputs[0].token_ids)
        logits = theirs.logits([*ids, *ours])
        assert logits[len(ids) - 1 : -1].argmax(-1).tolist() == ours, text


def test_greedy_tokens_are_those_of_transformers(llm: LLM, reference: Callable[..., Reference]) -> None:
    check_greedy(llm, reference(folder("demo")), held_out_prompts())


def test_the_draft_model_too_and_with_the_same_tokenizer(reference: Callable[..., Reference]) -> None:
    assert (folder("demo-draft") / "tokenizer.json").read_bytes() == (folder("demo") / "tokenizer.json").read_bytes()
    with LLM("demo-draft", dtype="float32") as llm:
        check_greedy(llm, reference(folder("demo-draft")), held_out_prompts()[::2])


@pytest.mark.parametrize(
    ("make", "least"),
    [(arithmetic.sums, 29), (arithmetic.difference, 29), (fields.exchange, 28), (tools.exchange, 25)],
    ids=["sums", "differences", "json", "tools"],
)
def test_held_out_questions_are_answered(
    on_cpu: LLM, make: Callable[[random.Random, bool], Exchange], least: int
) -> None:
    """Of 30, and those that are not right must at least stop."""
    questions = asked(make, 30, "spot checks")
    answers = texts(on_cpu, questions)
    wrong = [(made.user, text) for made, (text, _) in zip(questions, answers, strict=True) if not made.is_right(text)]
    assert {reason for _, reason in answers} == {"stop"}
    assert len(wrong) <= 30 - least, wrong


def test_json_is_json(on_cpu: LLM) -> None:
    for text, _ in texts(on_cpu, asked(fields.exchange, 30, "valid")):
        assert isinstance(json.loads(text), dict)


def test_a_chat_keeps_to_its_template_and_stops(on_cpu: LLM) -> None:
    """Every answer of a held-out chat is taken as it comes into the turns that follow."""
    rng = random.Random("chats")
    for _ in range(3):
        messages: list[Any] = []
        for _ in range(3):
            messages.append({"role": "user", "content": chats.short(rng, True).user})
            (output,) = on_cpu.chat(messages, GREEDY)
            answer = output.outputs[0]
            assert answer.finish_reason == "stop" and answer.text.strip(), messages
            assert "<|" not in answer.text
            messages.append({"role": "assistant", "content": answer.text})


def test_a_name_is_remembered(on_cpu: LLM) -> None:
    messages: list[Any] = []
    for question in ("My name is Anna.", "What is 27 + 48?", "What is my name?"):
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": on_cpu.chat(messages, GREEDY)[0].outputs[0].text})
    assert "75" in messages[3]["content"] and "Anna" in messages[5]["content"]


def test_stories_do_not_loop_and_keep_their_hero(on_cpu: LLM) -> None:
    rng = random.Random("stories")
    told = [stories.story(rng, True) for _ in range(12)]
    prompts = bare(on_cpu, [BEGIN + " ".join(one.sentences[:2]) for one in told])
    params = [SamplingParams(temperature=0.7, seed=seed, max_tokens=100) for seed in range(12)]
    named = 0
    for one, output in zip(told, on_cpu.generate(prompts, params), strict=True):
        words = output.outputs[0].text.split()
        runs = [tuple(words[at : at + 7]) for at in range(len(words) - 6)]
        assert len(runs) == len(set(runs)), output.outputs[0].text
        named += one.values["hero"] in output.outputs[0].text
    assert named >= 9


@pytest.mark.parametrize("name", MODELS)
def test_a_model_folder_is_whole_and_small(name: str) -> None:
    files = {path.name: path.stat().st_size for path in folder(name).iterdir() if path.is_file()}
    assert {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "generation_config.json", "README.md", "training.json", "evaluation.json", "loss.svg", "loss.csv",
    } == files.keys() - {"reproduction.json"}  # fmt: skip
    assert sum(files.values()) <= MOST_BYTES


@pytest.mark.parametrize("name", MODELS)
def test_a_card_has_the_figures_that_were_measured(name: str) -> None:
    files = {path.stem: json.loads(path.read_text()) for path in folder(name).glob("*.json")}
    text = (folder(name) / "README.md").read_text(encoding="utf-8")
    assert text == card.card(files["training"], files["evaluation"], files["config"], files.get("reproduction"))
    agreement = files["evaluation"]["agreement"]
    assert agreement["equal"] == agreement["prompts"] == 200
    assert f"{files['evaluation']['tasks']['sums']['right']:.1%}" in text and "Apache-2.0" in text


def test_the_command_line_knows_it_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = aphrodite("generate", "demo", "--prompt", "Once upon a time", "--max-tokens", 20, "--seed", 1, "--quiet")
    assert told.returncode == 0 and len(told.stdout.split()) > 8 and told.stderr == ""
    talk = aphrodite("chat", "demo", "--temperature", 0, "--quiet", stdin="My name is Anna.\nWhat is 27 + 48?\n")
    assert talk.returncode == 0 and "27 + 48 = 75" in talk.stdout
    explained = aphrodite("explain", "demo")
    assert explained.returncode == 0 and str(folder("demo")) in explained.stdout
    dumped = aphrodite("generate", "demo", "--dump-config", "--json")
    assert json.loads(dumped.stdout)["values"]["model"]["resolved"] == str(folder("demo"))


def test_a_folder_goes_first_and_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(aphrodite("explain", "./demo"), 4, "./demo", "no such folder")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.json").write_text("{}")
    refused(aphrodite("explain", "demo"), 4, "config.json")  # a folder of somebody's, and a poor one


def test_without_the_distribution_the_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "installed", dict)
    refused(aphrodite("generate", "demo", "--prompt", "a"), 4, "'demo'", "pip install aphrodite-demo")
