"""Plain tests of a told story: no loops, the right hero, sentences that look like sentences, words that are words."""

from __future__ import annotations

import random
import re
from collections import Counter

from corpus import stories

_WORD = re.compile(r"[A-Za-z']+")
_LOOP = 7  # words in a row that a story does not say twice
_DOUBLED = re.compile(r"\b(\w+) \1\b", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(a [aeio]\w+|an [^aeiouh\W]\w*)", re.IGNORECASE)


def known_words(seed: int) -> frozenset[str]:
    """The words of training stories."""
    rng = random.Random(f"words {seed}")
    words: Counter[str] = Counter()
    for _ in range(6000):
        words.update(_WORD.findall(stories.story(rng, False).text.lower()))
    return frozenset(words)


def judge(beginning: str, text: str, hero: str, words: frozenset[str]) -> dict[str, bool]:
    """What is right with a continuation.

    no_loop    no seven words in a row come twice
    on_topic   it names the hero, as 96 % of the held-out stories do in a hundred tokens
    sentences  each sentence but the last, which may be cut, begins with a capital; quotes close within their line
    grammar    no doubled word, and a or an as the next word wants it
    spelling   every word that begins small is one of the training stories, or of the beginning
    """
    said = _WORD.findall(text.lower())
    runs = Counter(tuple(said[at : at + _LOOP]) for at in range(len(said) - _LOOP + 1))
    own = set(_WORD.findall(beginning.lower()))
    whole = text[: max(text.rfind(mark) for mark in ".!?\n") + 1]
    sentences = [one.strip(' "\n') for one in re.split(r"(?<=[.!?])[\" \n]+", whole)]
    last = said[-1] if said and not text.endswith((".", "!", "?", "\n", '"')) else None
    return {
        "no_loop": not runs or max(runs.values()) == 1,
        "on_topic": hero in text,
        "sentences": all(_begins_well(one) for one in sentences[1:]),
        "grammar": not _DOUBLED.search(text) and not _ARTICLE.search(text),
        "spelling": all(word in words or word in own or word == last for word in _WORD.findall(text) if word.islower()),
    }


def _begins_well(sentence: str) -> bool:
    """With a capital; "..., asked Anna" goes on behind a question and may begin small."""
    return not sentence or sentence[0].isupper() or sentence.split()[0] in _GOES_ON


_GOES_ON = frozenset(["asked", "said", "thought", "cried", "shouted", "called", "whispered", "she", "he", "and", "but"])
