"""Chats: one to five exchanges of any kind, some with a system message, some that refer to what was said before."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from corpus import arithmetic, dates, facts, fields, lists, project, stories, tools
from corpus.exchange import Exchange
from corpus.grammar import any_of, listed, write
from corpus.names import city, first_name, practice
from corpus.template import render

Make = Callable[[random.Random, bool], Exchange]

# How often each kind of exchange comes, of a thousand.
MIX: tuple[tuple[int, Make], ...] = (
    (200, arithmetic.exchange),
    (200, fields.exchange),
    (120, dates.exchange),
    (130, lists.exchange),
    (110, facts.exchange),
    (80, project.exchange),
    (120, stories.exchange),
    (40, lambda rng, held_out: facts.unknown(rng)),
)
_SYSTEMS = (
    "You are a helpful assistant.", "You are a small, friendly assistant.", "Answer in a few words.",
    "You are the Aphrodite demo model.", "Be brief and correct.", "You are a patient teacher.", "Help the user.",
)  # fmt: skip


def exchange(rng: random.Random, held_out: bool) -> Exchange:
    """One exchange, drawn by the mix."""
    at = rng.randrange(sum(weight for weight, _ in MIX))
    for weight, make in MIX:
        if at < weight:
            return make(rng, held_out)
        at -= weight
    raise AssertionError("the weights have been counted")


def chat(rng: random.Random, held_out: bool) -> str:
    """The text of a whole chat."""
    return conversation(rng, held_out)[0]


def conversation(rng: random.Random, held_out: bool) -> tuple[str, list[dict[str, Any]]]:
    """A chat's text and its messages."""
    messages: list[dict[str, Any]] = []
    schemas: list[Any] = []
    if rng.random() < 0.3:
        messages.append({"role": "system", "content": any_of(rng, _SYSTEMS)})
    chance = rng.random()
    if chance < 0.16:
        called = tools.exchange(rng, held_out)
        schemas = [*called.tools]
        if rng.random() < 0.25:
            messages += facts.small_talk(rng).messages()
        messages += called.messages()
        if rng.random() < 0.3:  # the tools are at hand, and the question needs none of them
            messages += short(rng, held_out).messages()
    elif chance < 0.28:
        messages += remembered(rng, held_out).messages()
    else:
        if rng.random() < 0.12:
            messages += facts.small_talk(rng).messages()
        count = (1, 1, 1, 2, 2, 3, 4, 5)[rng.randrange(8)]
        for place in range(count):
            make = exchange if count < 3 or place == 0 else short
            messages += make(rng, held_out).messages()
        if rng.random() < 0.08:
            messages += facts.small_talk(rng).messages()
    return render(messages, schemas), messages


def short(rng: random.Random, held_out: bool) -> Exchange:
    """An exchange that is no story, so that several fit into one chat."""
    while True:
        made = exchange(rng, held_out)
        if made.task != "stories":
            return made


def remembered(rng: random.Random, held_out: bool) -> Exchange:
    """Something is told, other things are said, then it is asked for."""
    name, town = first_name(rng, held_out), city(rng, held_out)
    animal, color = any_of(rng, _PETS), any_of(rng, _COLORS)
    number = str(rng.randint(10, 99))
    told, asks, reply, answer = rng.choice(
        (
            (f"[My name is|I am|Call me] {name}.", "[What is my name?|Who am I?|Do you remember my name?|What am I called?]", f"Your name is {name}.", name),
            (f"I live in {town}.", "[Where do I live?|In which city do I live?|Do you remember where I live?]", f"You live in {town}.", town),
            (f"My favorite color is {color}.", "[What is my favorite color?|Which color do I like most?|Do you remember my color?]", f"Your favorite color is {color}.", color),
            (f"I have a {animal} [named|called] {name}.", f"[What is the name of my {animal}?|What is my {animal} called?|Who is my {animal}?]", f"Your {animal} is called {name}.", name),
            (f"[My lucky number is|Remember the number] {number}.", "[Which number was it?|What was the number?|Do you remember the number?]", f"The number is {number}.", number),
        )
    )  # fmt: skip
    before: list[dict[str, Any]] = [
        {"role": "user", "content": write(rng, told, {})},
        {
            "role": "assistant",
            "content": write(rng, any_of(rng, _NOTED), {"name": name if "name is" in reply else "my friend"}),
        },
    ]
    for _ in range(rng.randint(0, 2)):
        before += short(rng, held_out).messages()
    return Exchange("memory", write(rng, asks, {}), reply, "text", answer, before=before)


def echoed(rng: random.Random, held_out: bool) -> Exchange:
    """Words said back."""
    word = practice if not held_out and rng.random() < 0.6 else lists.words
    words = [word(rng) for _ in range(rng.randint(2, 6))]
    text = listed(words) if rng.random() < 0.5 else " ".join(words)
    ask = write(rng, "[Repeat after me|Say this back|Repeat]: {text}", {"text": text})
    return Exchange("memory", ask, text, "text", text)


_PETS = ("cat", "dog", "rabbit", "parrot", "hamster", "turtle", "pony")
_COLORS = ("red", "blue", "green", "yellow", "black", "white", "orange", "purple")
_NOTED = (
    "[Nice to meet you|Good to know|I will remember that|Thank you for telling me][.|!]",
    "[All right|I see]. [What can I do for you?|I will remember that.]",
)
