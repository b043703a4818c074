"""Short stories in simple English: a hero who stays who they are, a friend, a place, a thing, and a plot.

A frame is a plot, a place and a kind of hero; a fifth of the frames is held out of training, and so are a fifth of the
names.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from corpus.exchange import Exchange
from corpus.grammar import any_of, with_article, write
from corpus.names import Person, person
from corpus.plots import PLOTS
from corpus.split import draw


@dataclass(frozen=True)
class Place:
    """Where a story is: "on a farm", "on the farm", "the farm", "across the field", "in the field", "the red barn"."""

    at: str
    there: str
    noun: str
    paths: tuple[str, ...]
    spots: tuple[str, ...]
    sights: tuple[str, ...]


_PLACES = (
    Place("by the sea", "by the sea", "the sea", ("along the beach", "over the dunes"), ("on the beach", "in the dunes"), ("the white cliffs", "the old lighthouse", "the fishing boats")),
    Place("in the forest", "in the forest", "the forest", ("along the narrow path", "between the trees"), ("on a narrow path", "between the trees"), ("the tall trees", "the mossy rocks", "the big oak")),
    Place("in a small village", "in the village", "the village", ("down the street", "past the old church"), ("in the street", "behind the old church"), ("the village square", "the stone well", "the little shop")),
    Place("on a farm", "on the farm", "the farm", ("across the field", "behind the barn"), ("in the field", "behind the barn"), ("the red barn", "the apple trees", "the duck pond")),
    Place("in the mountains", "in the mountains", "the mountains", ("up the steep path", "along the ridge"), ("on a steep path", "near the ridge"), ("the high peaks", "the waterfall", "the wooden hut")),
    Place("near a lake", "by the lake", "the lake", ("around the lake", "along the shore"), ("near the lake", "on the shore"), ("the wooden pier", "the reeds", "the little island")),
    Place("in the city", "in the city", "the city", ("through the streets", "across the big bridge"), ("in the street", "on the big bridge"), ("the tall houses", "the clock tower", "the green park")),
    Place("on an island", "on the island", "the island", ("along the shore", "up the hill"), ("on the shore", "near the hill"), ("the palm trees", "the harbor", "the blue bay")),
    Place("by the river", "by the river", "the river", ("along the river", "over the old bridge"), ("by the river", "near the old bridge"), ("the water mill", "the willow trees", "the flat stones")),
    Place("in a valley", "in the valley", "the valley", ("down into the valley", "through the meadow"), ("in the meadow", "near the stream"), ("the green hills", "the vineyard", "the little stream")),
    Place("at the edge of the desert", "in the desert", "the desert", ("over the sand", "along the dry river"), ("in the sand", "by the dry river"), ("the red rocks", "the palm trees", "the old well")),
    Place("in the garden", "in the garden", "the garden", ("along the hedge", "between the flowers"), ("by the hedge", "between the flowers"), ("the rose bushes", "the old pear tree", "the small pond")),
    Place("in a castle", "in the castle", "the castle", ("down the long hall", "across the yard"), ("in the long hall", "in the yard"), ("the high tower", "the thick walls", "the iron gate")),
    Place("in the north", "in the north", "the north", ("over the ice", "through the snow"), ("on the ice", "in the snow"), ("the white hills", "the frozen lake", "the pine trees")),
    Place("in a harbor town", "in the harbor", "the harbor", ("along the pier", "past the ships"), ("on the pier", "between the ships"), ("the big ships", "the fish market", "the old crane")),
    Place("on a hill", "on the hill", "the hill", ("up the hill", "down the grassy slope"), ("on the hill", "in the grass"), ("the windmill", "the stone wall", "the lonely tree")),
)  # fmt: skip
_ANIMALS = (
    "fox", "rabbit", "bear", "mouse", "hedgehog", "squirrel", "owl", "frog", "duck", "cat", "dog", "badger", "otter",
    "deer", "goat", "penguin", "turtle", "raccoon", "beaver", "mole",
)  # fmt: skip
_WORKERS = (
    "baker", "farmer", "sailor", "teacher", "gardener", "painter", "shepherd", "tailor", "miller", "carpenter",
    "potter", "clockmaker",
)  # fmt: skip
_KINDS = ("child", "child", "child", *_ANIMALS, *_WORKERS)
_THINGS = (
    "kite", "red ball", "drum", "wooden boat", "blue hat", "silver bell", "toy train", "flute", "small lantern", "doll",
    "paper bird", "music box", "warm scarf", "old watch", "golden key", "teddy bear", "green umbrella", "spinning top",
    "glass marble", "little horn", "picture book", "leather bag", "wooden horse", "magnifying glass", "basket",
)  # fmt: skip
_FOODS = (
    ("bread and cheese", "bread"), ("a bowl of soup", "soup"), ("apple pie", "pie"), ("fresh bread", "bread"),
    ("pancakes with honey", "meal"), ("some nuts and berries", "meal"), ("a big melon", "melon"), ("warm milk and cookies", "meal"),
    ("potatoes with butter", "meal"), ("a bag of plums", "fruit"), ("a jar of jam", "jam"), ("fish and rice", "meal"),
)  # fmt: skip
_SKILLS = (
    "swim", "whistle", "ride a bicycle", "climb the old tree", "play the flute", "skip stones", "tie a knot", "juggle",
    "dance", "paint", "sing", "skate", "catch a fish", "read", "make a fire", "row a boat", "fly a kite", "bake bread",
)  # fmt: skip
_WEATHERS = ("sunny", "windy", "cold", "warm", "cloudy", "bright", "rainy", "foggy", "quiet")
_COLORS = ("red", "blue", "green", "yellow", "white", "golden", "purple", "brown")
_TRAITS = (
    "curious",
    "shy",
    "brave",
    "clever",
    "kind",
    "cheerful",
    "quiet",
    "stubborn",
    "friendly",
    "careful",
    "lazy",
    "busy",
)
_OPENINGS = (
    "Once upon a time[,|] there was {who} named {hero}. {He} lived {at}.",
    "Once upon a time, {at}, there lived {who} named {hero}.",
    "{hero} was {who} who lived {at}.",
    "Long ago, {who} lived {at}. {His} name was {hero}.",
    "There once was {who} {at}. Everyone called {him} {hero}.",
    "This is the story of {hero}, {who} {at}.",
    "{At} lived {who} called {hero}.",
    "In a time long past, there was {who} named {hero}, who lived {at}.",
    "Do you know {hero}? {He} was {who}, and {he} lived {at}.",
    "Not so long ago, {who} named {hero} lived {at}.",
    "{At} everybody knew {hero}, {who}.",
    "{hero} lived {at}. {He} was {who} and [very |rather |]{trait}.",
    "My {elder} once told me about {hero}, {who} {at}.",
    "Listen to the story of {hero}. {He} was {who} and lived {at}.",
    "There was {who} {at}, and {his} name was {hero}.",
    "[Many years ago|One year], {hero} came to live {at}. {He} was {who}.",
)
_ABOUT = (
    "{hero} was {trait} and [loved|liked] {food}.",
    "{He} was a very {trait} [one|little soul], and everyone liked {him}.",
    "{He} lived with {his} {elder} in a [small|little|crooked] house.",
    "Every morning {hero} [walked|went] {path}.",
    "{He} loved to look at {sight}.",
    "{hero} was {trait}, but sometimes {he} was [a little lonely|in a hurry|dreamy].",
    "Nothing made {hero} happier than {food}.",
    '{His} {elder} often said, "{hero}, you are too {trait}!"',
    "There was no other {kind} like {hero}.",
    "In the evening, {hero} [sat|rested] near {sight} and looked at the sky.",
    "{hero} had a {color} hat that {he} wore every day.",
    "{He} knew every stone and every tree {there}.",
    "{hero} never went to sleep without {food}.",
)
_FRIENDS = (
    "{hero} had a friend, {fwho} named {friend}.",
    "{His} best friend was {friend}, {fwho}.",
    "{hero} [often played with|knew] {friend}, {fwho} {there}.",
    "Next door lived {friend}, {fwho}.",
)
_CLOSINGS = (
    "And they lived happily [ever after|for many years].",
    "That was a good day.",
    "And if you go there, you can still hear {hero} laugh.",
    "That night {hero} fell asleep with a smile.",
    "The end.",
    "And that is the story of {hero}.",
)
_ASKS = (
    "[Tell me|Write|Tell] a [short |little |]story about {whose} {topic}.",
    "[Can you tell me|Please write|I want to hear] a story about {whose} {topic}[.|?]",
    "A story about {whose} {topic}, please.",
    "[Tell me a story|Write a story] with {whose} named {hero}.",
    "Write a story about {hero}, {who} {at}.",
)
_ANY = (
    "Tell me a story.",
    "Write a short story.",
    "Can you tell me a story?",
    "A story, please.",
    "I want to hear a story.",
    "Tell me a bedtime story.",
)


@dataclass(frozen=True)
class Story:
    """A story, sentence by sentence, and what it is about."""

    sentences: tuple[str, ...]
    values: dict[str, str]
    she: bool

    @property
    def text(self) -> str:
        """All of it, a paragraph or several."""
        return " ".join(self.sentences).replace("\n ", "\n")


def story(rng: random.Random, held_out: bool, *, longest: int = 14) -> Story:
    """A story whose frame and names are on the right side of the split."""
    place, kind, plot = draw(
        lambda: (rng.choice(_PLACES), rng.choice(_KINDS), rng.choice(tuple(PLOTS))),
        lambda frame: ("frame", frame[2], frame[0].noun, frame[1]),
        held_out,
    )
    hero = person(rng, held_out)
    values = _values(rng, held_out, hero, place, kind)
    lines = [any_of(rng, _OPENINGS), *rng.sample(_ABOUT, rng.randint(0, 2)), *_plot(rng, plot, longest)]
    sentences = [write(rng, line, values) + ("\n" if rng.random() < 0.1 else "") for line in lines]
    if rng.random() < 0.35:
        sentences.append(write(rng, any_of(rng, _CLOSINGS), values))
    sentences[-1] = sentences[-1].rstrip()
    return Story(tuple(sentences), values, hero.she)


def _plot(rng: random.Random, name: str, longest: int) -> list[str]:
    """The lines of a plot, in which the friend is introduced once, and before all else that they do."""
    lines = [any_of(rng, beat) for beat in PLOTS[name][:longest]]
    lines = [line.removeprefix("?") for line in lines if line[0] != "?" or rng.random() < 0.5]
    if "{friend}" not in "".join(lines):
        return lines
    first = next(line for line in lines if "{friend}" in line or "{fHe}" in line or "{fHis}" in line)
    known = "fwho}" not in first.lower()
    told = [any_of(rng, _FRIENDS)] if known else []
    for line in lines:
        told.append(_without_introduction(line) if known else line)
        known = known or "{friend}" in line
    return told


def _without_introduction(line: str) -> str:
    return line.replace("{fwho} named {friend}", "{friend}").replace(", {fwho},", "").replace(", {fwho}", "")


def plain(rng: random.Random, held_out: bool) -> str:
    """A story as plain text, in some cases under a title or begun in its middle."""
    told = story(rng, held_out)
    text = told.text
    chance = rng.random()
    if chance < 0.08:
        return f"{told.values['hero']} and the {told.values['thing']}\n\n{text}\n"
    if chance < 0.2 and len(told.sentences) > 6:  # no name has been said yet: begin with the plot
        return " ".join(told.sentences[1:]).replace("\n ", "\n") + "\n"
    return text + "\n"


def exchange(rng: random.Random, held_out: bool) -> Exchange:
    """A story that somebody asks for."""
    told = story(rng, held_out, longest=9)
    values = told.values
    if rng.random() < 0.12:
        return Exchange("stories", any_of(rng, _ANY), told.text, "text", "")
    thing = f"and {values['a_thing']}" if values["thing"] in told.text else values["at"]
    values = values | {"topic": thing, "whose": with_article(values["kind"])}
    ask = any_of(rng, _ASKS)
    return Exchange(
        "stories", write(rng, ask, values), told.text, "text", values["hero"] if "{hero}" in ask else values["kind"]
    )


_PRONOUNS = {True: ("she", "her", "her", "herself"), False: ("he", "him", "his", "himself")}


def _values(rng: random.Random, held_out: bool, hero: Person, place: Place, kind: str) -> dict[str, str]:
    friend = person(rng, held_out)
    while friend.name == hero.name or (friend.she == hero.she and rng.random() < 0.7):
        friend = person(rng, held_out)
    friend_kind = rng.choice(_KINDS)
    while friend_kind == kind and kind != "child":
        friend_kind = rng.choice(_KINDS)
    thing, thing2 = rng.sample(_THINGS, 2)
    (food, food_noun), (food2, _) = rng.sample(_FOODS, 2)
    elder = rng.choice(("grandmother", "mother", "aunt", "grandfather", "father", "uncle"))
    she_elder = elder in ("grandmother", "mother", "aunt")
    he, him, his, _ = _PRONOUNS[hero.she]
    fhe, fhim, fhis, fself = _PRONOUNS[friend.she]
    who, fwho = _who(rng, hero, kind), _who(rng, friend, friend_kind)
    return {
        "hero": hero.name, "he": he, "him": him, "his": his, "He": he.capitalize(), "His": his.capitalize(),
        "who": who, "kind": _noun(hero, kind),
        "friend": friend.name, "fhe": fhe, "fhim": fhim, "fhis": fhis, "fHe": fhe.capitalize(),
        "fHis": fhis.capitalize(), "fhimself": fself, "fwho": fwho, "Fwho": fwho[0].upper() + fwho[1:],
        "at": place.at, "At": place.at[0].upper() + place.at[1:], "there": place.there,
        "There": place.there[0].upper() + place.there[1:],
        "place": place.noun, "path": any_of(rng, place.paths), "spot": any_of(rng, place.spots), "sight": any_of(rng, place.sights),
        "thing": thing, "a_thing": with_article(thing), "A_thing": with_article(thing).capitalize(),
        "a_thing2": with_article(thing2), "food": food, "food_noun": food_noun, "food2": food2,
        "skill": any_of(rng, _SKILLS), "weather": any_of(rng, _WEATHERS), "color": any_of(rng, [color for color in _COLORS if not thing.startswith(color)]),
        "trait": any_of(rng, _TRAITS), "elder": elder, "ehe": "she" if she_elder else "he",
        "ehis": "her" if she_elder else "his",
    }  # fmt: skip


def _noun(whose: Person, kind: str) -> str:
    return ("girl" if whose.she else "boy") if kind == "child" else kind


def _who(rng: random.Random, whose: Person, kind: str) -> str:
    noun = _noun(whose, kind)
    words = ("little", "young", "small") if kind not in _WORKERS else ("old", "young", "poor", "cheerful")
    return with_article(f"{any_of(rng, words)} {noun}") if kind == "child" or rng.random() < 0.7 else with_article(noun)
