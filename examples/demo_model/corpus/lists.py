"""Lists: sorting, turning round, counting, the first and the last, the largest and the smallest, bullets."""

from __future__ import annotations

import random

from corpus.exchange import Exchange
from corpus.grammar import any_of, write
from corpus.split import is_held_out

_WORDS = tuple(
    "apple ant bear bird boat book bread bus cake cat chair clock cloud cow cup dog door duck egg eel fish flag fox frog "
    "game goat grass hat hen hill horse house ice ink iron jam jar jug key king kite lamp leaf lemon lion map milk moon "
    "mouse nail nest nose nut oak oil onion owl pan park pear pen pig plum queen quilt rain ring river road rose salt sea "
    "sheep ship shoe snow song star stone sun table tea tent tree tulip uncle urn van vase vine wall water wind wolf yak "
    "yarn zebra zoo".split()
)


def exchange(rng: random.Random, held_out: bool) -> Exchange:
    """A list and something to do with it."""
    numbers = rng.random() < 0.4
    items = _items(rng, numbers, held_out)
    shown = ", ".join(items)
    tasks = (_sort, _sort, _sort, _reverse, _pick, _bullets, _count)
    return tasks[rng.randrange(len(tasks))](rng, items, shown, numbers)


def _items(rng: random.Random, numbers: bool, held_out: bool) -> list[str]:
    while True:
        count = rng.randint(3, 6)
        items = [str(n) for n in rng.sample(range(1, 100), count)] if numbers else rng.sample(_WORDS, count)
        if is_held_out("list", *sorted(items)) == held_out:
            return items


def _sort(rng: random.Random, items: list[str], shown: str, numbers: bool) -> Exchange:
    down = rng.random() < 0.25
    if numbers:
        how = (
            "[, largest first| from largest to smallest| in descending order]"
            if down
            else "[| from smallest to largest| in ascending order|, smallest first]"
        )
        ask = f"[Sort|Put in order|Order] [these numbers|the numbers|]{how}: {shown}"
        result = sorted(items, key=int, reverse=down)
    else:
        how = (
            "[ from Z to A| in reverse alphabetical order]"
            if down
            else "[| alphabetically| in alphabetical order| from A to Z]"
        )
        ask = f"[Sort|Order] [these words|the words|this list|]{how}: {shown}"
        result = sorted(items, reverse=down)
    answer = ", ".join(result)
    question = " ".join(write(rng, ask, {}).split()).replace(" :", ":").replace(" ,", ",")
    return Exchange("lists", question, answer, "text", answer)


def _reverse(rng: random.Random, items: list[str], shown: str, numbers: bool) -> Exchange:
    answer = ", ".join(reversed(items))
    ask = f"[Reverse this list|Turn this list around|Write this list backwards]: {shown}"
    return Exchange("lists", write(rng, ask, {}), answer, "text", answer)


def _pick(rng: random.Random, items: list[str], shown: str, numbers: bool) -> Exchange:
    if numbers:
        word, pick = rng.choice((("largest", max), ("smallest", min)))
        answer = pick(items, key=int)
        ask = f"[Which number is the {word}|What is the {word} number|Find the {word} number]: {shown}?"
        return Exchange("lists", write(rng, ask, {}), f"The {word} number is {answer}.", "number", answer)
    word, place = rng.choice((("first", 0), ("second", 1), ("third", 2), ("last", -1)))
    ask = f"[What is the {word} word|Which word is {word}|Give me the {word} word]: {shown}?"
    return Exchange("lists", write(rng, ask, {}), f"The {word} word is {items[place]}.", "text", items[place])


def _bullets(rng: random.Random, items: list[str], shown: str, numbers: bool) -> Exchange:
    if rng.random() < 0.5:
        answer = "\n".join(f"- {item}" for item in items)
        ask = f"[Make a bullet list of|Write as bullet points|List with bullets]: {shown}"
    else:
        answer = "\n".join(f"{place}. {item}" for place, item in enumerate(items, 1))
        ask = f"[Make a numbered list of|Number these|Write as a numbered list]: {shown}"
    return Exchange("lists", write(rng, ask, {}), answer, "text", answer)


def _count(rng: random.Random, items: list[str], shown: str, numbers: bool) -> Exchange:
    kind = "numbers" if numbers else "words"
    ask = f"How many {kind} are [in this list|here|there]: {shown}?"
    return Exchange("lists", write(rng, ask, {}), f"There are {len(items)} {kind}.", "number", str(len(items)))


def words(rng: random.Random) -> str:
    """A word of the lists."""
    return any_of(rng, _WORDS)
