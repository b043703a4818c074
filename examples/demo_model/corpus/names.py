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
    "Stella Tara Tess Tilda Vera Wanda Willa Yara Zoe "
    "Abby Agnes Aisha Alma Andrea Anita Astrid Aurora Barbara Beatrice Bianca Bonnie Bridget Camilla Carla Carmen Carol "
    "Celia Chloe Claire Cora Diana Dina Doris Edith Elena Elisa Eliza Elsa Erika Esther Evelyn Fatima Felicia Fiona Gina "
    "Gloria Gwen Hedda Heidi Helen Hilda Inga Ingrid Irma Isabel Jasmin Jenny Joan Johanna Judith Karen Karin Katya Kim "
    "Kirsten Lara Layla Leila Linda Lisa Livia Lotte Louise Lydia Mabel Maggie Margaret Marla Martha Matilda Maud Megan "
    "Melanie Miriam Monica Naomi Natalie Nelly Nicole Noemi Odile Olga Paula Pearl Penny Pia Polly Priya Rachel Ramona "
    "Rebecca Rita Roberta Sabine Sally Salma Sandra Selma Sonia Sue Susan Sylvia Teresa Thea Ursula Valerie Veronica "
    "Viola Wendy Wilma Yasmin Yvonne".split()
)
BOYS = tuple(
    "Adam Alan Albert Alex Andy Anton Arlo Ben Bill Carl Charlie Colin Dan David Dylan Eddie Eli Emil Eric Felix Finn "
    "Frank Fred George Gus Hans Harry Henry Hugo Ian Isaac Ivan Jack Jacob James Jasper Jim Joe Jonas Karl Leo Liam Louis "
    "Lucas Luke Mark Martin Max Mike Milo Nate Ned Neil Noah Oliver Omar Oscar Otto Owen Paul Pete Peter Ravi Robin Rory "
    "Sam Simon Teddy Theo Tim Toby Tom Victor Walter Will Yusuf "
    "Aaron Abel Ahmed Alfred Ali Amos Andre Angus Archie Arthur Axel Barney Basil Bernard Boris Bruno Caleb Carlos "
    "Cedric Christopher Clive Conrad Cyril Damian Daniel Dennis Derek Dirk Dominic Donald Douglas Edgar Edward Edwin Elliot "
    "Emmet Erwin Ethan Ezra Fabian Fergus Florian Francis Gabriel Gavin Gerald Gilbert Glen Gordon Graham Gregor Harold "
    "Hassan Hector Herbert Horace Howard Hubert Humphrey Igor Ismael Jamal Jan Jerome Jerry Joel John Jonathan Joseph Juan "
    "Julian Justin Keith Kenneth Kevin Kurt Lars Laurence Leonard Leslie Lewis Linus Lloyd Lorenz Luis Magnus Malcolm "
    "Manuel Marcus Mario Marvin Matthew Maurice Michael Mohamed Morris Murray Nicholas Nigel Nils Norman Olaf Orlando Oswald "
    "Pablo Patrick Pedro Percy Philip Quentin Ralph Raymond Rene Richard Robert Roger Roland Ronald Rudolf Rupert Russell "
    "Samuel Sebastian Sergei Silas Stanley Stefan Stephen Steven Sven Terry Thomas Timothy Tobias Tony Ulrich Vincent "
    "Vladimir Wallace Warren Wilbur William Xavier Zachary".split()
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
_PRACTICE = 0.45  # of the invented names of training
_STRANGERS = 0.3  # of the people in training's stories
_ENDS = "a an ar as e el en er ia in is o on or us y ek ix".split()
# Parts of these make names that look like nothing: see `practice`.
_SOURCES = (
    "above account acid against almost animal answer army around bank basket beauty because belief better between blood "
    "board bottle branch bridge bright brother building burst business camera canvas carriage cause chance change cheese "
    "chief church circle cloth coal colour comfort common company complex copper cord cotton cough country cover crack "
    "credit crime crush current curtain danger daughter death debt decision degree design detail digestion direction "
    "discovery distance doubt dress drink driving dust early earth education effect elastic electric engine enough "
    "equal error event example exchange exist expert eye fact family father feather feeling fiction field fight finger "
    "fixed flame flight floor flower foolish force form forward frame free friend front fruit garden general glass glove "
    "gold government grain grass great green grip group growth guide hammer harbour harmony hearing heart heat help high "
    "history hollow hook hope horn hospital hour humour ice idea important impulse increase industry insect instrument "
    "insurance interest invention iron jelly jewel journey judge jump keep kettle kick knee knife knot knowledge land "
    "language laugh law leather left letter level library lift light limit linen liquid list living lock long look loss "
    "machine manager mark market married mass match material meal measure medical meeting memory metal middle military "
    "mind mine minute mist mixed money month morning mother motion mountain mouth muscle music narrow nation natural neck "
    "need needle nerve news night noise normal north nose note number observation offer office open operation opinion "
    "orange order ornament oven page pain paint paper parallel parcel paste payment peace pencil person physical picture "
    "pipe place plane plant plate pleasure plough pocket point poison polish porter position possible potato powder power "
    "present price print prison private probable process produce profit property prose protest public pull pump punishment "
    "purpose push quality question quick quiet quite rail rate reaction reading reason receipt record regret regular "
    "relation religion request respect responsible reward rhythm right river road roll roof room root rough round rule "
    "safe sail salt scale school science scissors screw second secret secretary selection self sense separate serious "
    "servant shade shake shame sharp shelf shock shut side sign silk silver simple sister size skirt sleep slope smash "
    "smell smile smoke smooth sneeze snow social society solid special sponge spoon spring square stage start statement "
    "station steam stem step stitch stocking stomach stop store story strange street stretch structure substance sugar "
    "suggestion support surprise sweet swim system table talk taste teaching tendency test theory thick thing thought "
    "thread throat through thumb thunder ticket tired together tomorrow tongue tooth touch town trade train transport tray "
    "trick trouble trousers turn twist umbrella under unit value verse vessel view violent voice waiting walk war wash "
    "waste watch water wave wax weather weight wheel while whip whistle wide window winter wire wise woman wood wool word "
    "work worm wound writing wrong year yellow yesterday young"
).split()


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


def practice(rng: random.Random) -> str:
    """A word of parts of words, small: "thonew", "ctiaro". It cannot be guessed, only copied, and has any letters."""
    if rng.random() < 0.3:  # a letter and the end of a word
        word = any_of(rng, _SOURCES)
        return any_of(rng, "abcdefghijklmnoprstuvwyz") + word[rng.randint(1, len(word) - 2) :]
    out = ""
    while len(out) < 3:
        for _ in range(rng.randint(1, 3)):
            word = any_of(rng, _SOURCES)
            start = rng.randrange(len(word) - 1)
            out += word[start : start + rng.randint(1, 6)]
    return out[:12]


def _invented(rng: random.Random, kind: str, held_out: bool) -> str:
    """In training one of either kind; held out those that can be said, which are the ones that a user may think of."""
    while True:
        name = practice(rng).capitalize() if not held_out and rng.random() < _PRACTICE else invented(rng)
        if is_held_out(kind, name) == held_out:
            return name


def person(rng: random.Random, held_out: bool) -> Person:
    """A person of a story: a common name; in training an invented one now and then."""
    she = rng.random() < 0.5
    if not held_out and rng.random() < _STRANGERS:
        return Person(_invented(rng, "name", held_out), she)
    return Person(choose(rng, "name", GIRLS if she else BOYS, held_out), she)


def first_name(rng: random.Random, held_out: bool) -> str:
    """A common name or an invented one, half and half."""
    if rng.random() < 0.5:
        return choose(rng, "name", GIRLS if rng.random() < 0.5 else BOYS, held_out)
    return _invented(rng, "name", held_out)


def last_name(rng: random.Random, held_out: bool) -> str:
    """A surname or an invented one, half and half."""
    return choose(rng, "name", SURNAMES, held_out) if rng.random() < 0.5 else _invented(rng, "name", held_out)


def full_name(rng: random.Random, held_out: bool) -> str:
    """First name and surname."""
    return f"{first_name(rng, held_out)} {last_name(rng, held_out)}"


def city(rng: random.Random, held_out: bool) -> str:
    """A city, real or invented."""
    return choose(rng, "city", CITIES, held_out) if rng.random() < 0.6 else _invented(rng, "city", held_out)
