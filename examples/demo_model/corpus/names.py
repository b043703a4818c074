"""Names of people and places: common ones, and invented ones without end, so that a model must copy and cannot recall."""

from __future__ import annotations

import random
from dataclasses import dataclass

from corpus.grammar import any_of
from corpus.split import choose, is_held_out

GIRLS = tuple(
    "Ada Alice Amelia Amy Anna Bella Beth Cara Clara Daisy Dora Ella Ellie Emily Emma Eva Faye Flora Freya Grace Greta "
    "Hana Hannah Hazel Holly Ida Iris Isla Ivy Jane Jill Josie Julia June Kate Kira Laura Lena Lily Lina Lola Lucy Luna "
    "Mara Maria Maya Mia Mila Mina Molly Nadia Nell Nina Nora Olive Petra Poppy Rosa Rose Ruby Ruth Sara Sofia Sophie "
    "Stella Tara Tess Tilda Vera Wanda Willa Yara Zoe".split()
)
BOYS = tuple(
    "Adam Alan Albert Alex Andy Anton Arlo Ben Bill Carl Charlie Colin Dan David Dylan Eddie Eli Emil Eric Felix Finn "
    "Frank Fred George Gus Hans Harry Henry Hugo Ian Isaac Ivan Jack Jacob James Jasper Jim Joe Jonas Karl Leo Liam Louis "
    "Lucas Luke Mark Martin Max Mike Milo Nate Ned Neil Noah Oliver Omar Oscar Otto Owen Paul Pete Peter Ravi Robin Rory "
    "Sam Simon Teddy Theo Tim Toby Tom Victor Walter Will Yusuf".split()
)
CITIES = tuple(
    "Oslo Paris Rome Berlin Madrid Lisbon Dublin London Vienna Prague Warsaw Athens Cairo Tokyo Delhi Lima Quito Boston "
    "Denver Austin Chicago Toronto Sydney Seoul Bergen Porto Turin Geneva Krakow Riga Tallinn Helsinki Stockholm Nairobi "
    "Accra Lagos Tunis Havana Bogota Santiago Milan Naples Lyon Basel Leeds York Bristol Oxford Seville Malaga Ghent "
    "Bruges Utrecht Hamburg Munich Dresden Cologne Zagreb Split Sofia Varna Ankara Izmir Perth Dakar Hanoi Osaka".split()
)
SURNAMES = tuple(
    "Abbott Baker Barnes Bell Berg Black Bloom Bond Boyd Brook Brown Burke Carter Clark Cole Cook Cooper Cox Cross Dale "
    "Dean Diaz Drake Dunn Ellis Evans Fisher Flynn Ford Fox Frost Garcia Gill Grant Gray Green Hall Hart Hayes Hill Holt "
    "Hunt Jones Katz Kaur Kelly Khan Kim King Klein Knight Lane Lee Lind Long Lopez Marsh Mason Meyer Mills Moore Moss "
    "Nash Novak Olsen Page Park Patel Pope Price Quinn Ray Reed Reyes Rice Rossi Ross Ruiz Sato Shaw Silva Singh Smith "
    "Stone Swan Tate Todd Vance Vega Wade Walsh Ward Weber West White Wolf Wong Wood Young".split()
)
_ONSETS = "b br c ch d dr f fl g gr h j k kr l m n p pr r s sh st t th tr v w y z".split()
_VOWELS = "a e i o u a e i o ai ea ee ia io".split()
_CODAS = "  l n r s t m n l r nd rk ss ck x d".split(" ")
_ENDS = "a an ar as e el en er ia in is o on or us y ek ix".split()


@dataclass(frozen=True)
class Person:
    """A first name and the pronoun that goes with it."""

    name: str
    she: bool


def invented(rng: random.Random) -> str:
    """A name that nobody has: Stovan, Meradia."""
    middle = "".join(any_of(rng, _ONSETS) + any_of(rng, _VOWELS) for _ in range(rng.randint(0, 1)))
    return (
        any_of(rng, _ONSETS) + any_of(rng, _VOWELS) + middle + any_of(rng, _CODAS) + any_of(rng, _ENDS)
    ).capitalize()


def _invented(rng: random.Random, kind: str, held_out: bool) -> str:
    while is_held_out(kind, name := invented(rng)) != held_out:
        pass
    return name


def person(rng: random.Random, held_out: bool) -> Person:
    """A person of a story: a common name."""
    she = rng.random() < 0.5
    return Person(choose(rng, "name", GIRLS if she else BOYS, held_out), she)


def first_name(rng: random.Random, held_out: bool) -> str:
    """A common name or an invented one, half and half."""
    return person(rng, held_out).name if rng.random() < 0.5 else _invented(rng, "name", held_out)


def full_name(rng: random.Random, held_out: bool) -> str:
    """First name and surname."""
    last = choose(rng, "name", SURNAMES, held_out) if rng.random() < 0.5 else _invented(rng, "name", held_out)
    return f"{first_name(rng, held_out)} {last}"


def city(rng: random.Random, held_out: bool) -> str:
    """A city, real or invented."""
    return choose(rng, "city", CITIES, held_out) if rng.random() < 0.6 else _invented(rng, "city", held_out)
