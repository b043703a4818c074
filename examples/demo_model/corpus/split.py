"""What is held out of training: a fifth of all number pairs, names, story frames and so on, by a hash of each.

The hash makes the choice: there is no list that could get lost, and a thing is on the same side in every run, whoever
draws it.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

ONE_IN = 5

T = TypeVar("T")


@functools.cache
def is_held_out(kind: str, *parts: object) -> bool:
    """Whether a thing is kept from training, say ("sum", 12, 47)."""
    text = "|".join((kind, *map(str, parts)))
    return hashlib.blake2b(text.encode(), digest_size=4).digest()[0] % ONE_IN == 0


def draw(make: Callable[[], T], key: Callable[[T], tuple[object, ...]], held_out: bool) -> T:
    """What `make` gives first that is on the right side; `key` is its kind and its parts."""
    for _ in range(10_000):
        thing = make()
        if is_held_out(*(str(part) for part in key(thing))) == held_out:
            return thing
    raise ValueError("none of 10000 draws is on the right side of the split")


@functools.cache
def _side(kind: str, items: tuple[object, ...], held_out: bool) -> tuple[object, ...]:
    return tuple(item for item in items if is_held_out(kind, str(item)) == held_out)


def choose(rng: random.Random, kind: str, items: Sequence[T], held_out: bool) -> T:
    """One of a list's items on the right side. Small lists need a look: both sides must have some."""
    side = _side(kind, tuple(items), held_out)
    return side[int(rng.random() * len(side))]  # type: ignore[return-value]


def pair(rng: random.Random, kind: str, low: int, high: int, held_out: bool) -> tuple[int, int]:
    """Two numbers of low..high whose pair is on the right side; (a, b) and (b, a) are one pair.

    Pairs below ten are always in training: they are the facts that everything else is made of.
    """
    while True:
        a, b = rng.randint(low, high), rng.randint(low, high)
        if max(a, b) < 10:
            if not held_out:
                return a, b
        elif is_held_out(kind, min(a, b), max(a, b)) == held_out:
            return a, b
