"""The text that the demo models are trained on: seeded, true, and without what is held out of it."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corpus import arithmetic, dates, facts, fields, lists, mix, names, project, split, stories, tools
from corpus.exchange import Exchange

SEED = 20
SUM = re.compile(r"(?<![\w.:-])(?<!\d \+ )(\d+) ([+x-]) (\d+) = (-?\d+)(?![\w.:]\d)")
RESULT = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "x": lambda a, b: a * b}
KIND = {"+": "sum", "-": "difference", "x": "product"}
TASKS: dict[str, Callable[[random.Random, bool], Exchange]] = {
    "sums": arithmetic.sums,
    "differences": arithmetic.difference,
    "products": arithmetic.product,
    "json": fields.exchange,
    "dates": dates.exchange,
    "lists": lists.exchange,
    "facts": facts.exchange,
    "project": project.exchange,
}
PRINT = """
import hashlib, random
from corpus import mix
rng = random.Random("documents 7")
print(hashlib.sha256("".join(mix.document(rng, False) for _ in range(300)).encode()).hexdigest())
"""


def in_a_fifth(*parts: object) -> bool:
    """The split as its page tells it, once more: a fifth, by the first byte of a hash."""
    return hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=4).digest()[0] % 5 == 0


@pytest.fixture(scope="module")
def training() -> list[str]:
    rng = random.Random(SEED)
    return [mix.document(rng, False) for _ in range(4000)]


def numbers_of(documents: list[str]) -> list[tuple[int, str, int, int]]:
    return [
        (int(a), sign, int(b), int(result)) for document in documents for a, sign, b, result in SUM.findall(document)
    ]


def test_no_number_pair_that_is_held_out_is_in_training_text(training: list[str]) -> None:
    seen = [(a, sign, b) for a, sign, b, _ in numbers_of(training) if 10 <= max(a, b) <= 99 or sign == "x"]
    assert Counter(sign for _, sign, _ in seen).keys() == set(KIND)
    assert sum(min(a, b) > 9 for a, _, b in seen) > 2000
    leaked = {
        (a, sign, b)
        for a, sign, b in seen
        if in_a_fifth(KIND[sign], min(a, b), max(a, b)) and not (sign == "x" and min(a, b) <= 2)
    }
    assert not leaked


def test_held_out_questions_have_held_out_pairs_only() -> None:
    rng = random.Random(SEED)
    for make, kind in (
        (arithmetic.sums, "sum"),
        (arithmetic.difference, "difference"),
        (arithmetic.product, "product"),
    ):
        for _ in range(300):
            a, b = (int(number) for number in re.findall(r"\d+", make(rng, True).user)[:2])
            assert in_a_fifth(kind, min(a, b), max(a, b)), (kind, a, b)


def test_what_training_text_reckons_is_right(training: list[str]) -> None:
    found = numbers_of(training)
    wrong = [(a, sign, b, result) for a, sign, b, result in found if RESULT[sign](a, b) != result]
    assert len(found) > 4000 and not wrong


def test_no_name_that_is_held_out_is_in_training_text(training: list[str]) -> None:
    words = Counter(word for document in training for word in re.findall(r"[^\W\d_]+", document))
    common = {*names.GIRLS, *names.BOYS, *names.SURNAMES}
    held_out = {name for name in common if in_a_fifth("name", name)}
    assert 0.1 < len(held_out) / len(common) < 0.3
    assert not held_out.intersection(words)
    assert sum(name in words for name in common - held_out) > 300  # the others are


def test_held_out_stories_have_held_out_heroes_and_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are seen where they are drawn: the text of a story does not name its plot."""
    drawn: list[tuple[object, ...]] = []

    def draw(make: Callable[[], Any], key: Callable[[Any], tuple[object, ...]], held_out: bool) -> Any:
        thing = split.draw(make, key, held_out)
        drawn.append(key(thing))
        return thing

    monkeypatch.setattr(stories, "draw", draw)
    frames: dict[bool, set[tuple[object, ...]]] = {}
    for held_out in (False, True):
        drawn.clear()
        rng = random.Random(SEED)
        made = [stories.story(rng, held_out) for _ in range(500)]
        assert len(drawn) == 500
        assert {in_a_fifth(*frame) for frame in drawn} == {held_out}
        assert not held_out or {in_a_fifth("name", one.values["hero"]) for one in made} == {True}
        frames[held_out] = set(drawn)
    assert not frames[False] & frames[True]


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("held_out", [False, True])
def test_the_answer_that_is_taught_would_be_marked_right(task: str, held_out: bool) -> None:
    rng = random.Random(SEED)
    for _ in range(200):
        made = TASKS[task](rng, held_out)
        assert made.is_right(made.reply), made
        assert not made.is_right(""), made


def test_a_call_that_is_taught_names_a_tool_at_hand_and_would_be_marked_right() -> None:
    rng = random.Random(SEED)
    for _ in range(200):
        made = tools.exchange(rng, True)
        assert made.is_right(f"<tool_call>\n{made.answer}\n</tool_call>")
        assert not made.is_right(made.answer)
        (call,) = made.calls
        schemas = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in made.tools}
        assert set(call["arguments"]) == set(schemas[call["name"]])


def test_no_document_has_an_unfilled_place(training: list[str]) -> None:
    plain = [text for text in training if "<|im_start|>" not in text and '"' not in text]
    assert len(plain) > 300
    assert not [text for text in plain if re.search(r"[{}\[\]]", text)]


def test_the_same_seed_gives_the_same_text_in_another_process(repository: Path) -> None:
    """With another seed of Python's own hashes, which must not matter."""
    folder = repository / "examples" / "demo_model"
    answers = [
        subprocess.run([sys.executable, "-c", PRINT], check=True, capture_output=True, text=True, cwd=folder,
                       env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(folder)}).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    rng = random.Random("documents 7")
    here = "".join(mix.document(rng, False) for _ in range(300))
    assert answers == [hashlib.sha256(here.encode()).hexdigest() + "\n"] * 2
