"""Small facts of the world: animals, opposites, plurals, past tenses, colors, shapes, capitals, letters."""

from __future__ import annotations

import random
from collections.abc import Callable

from corpus.exchange import Exchange
from corpus.grammar import any_of, with_article, write
from corpus.split import is_held_out

# animal: sound, legs, home, food, its young
_ANIMALS = {
    "cat": ("meows", 4, "in a house", "fish", "kitten"),
    "dog": ("barks", 4, "in a house", "meat", "puppy"),
    "cow": ("moos", 4, "on a farm", "grass", "calf"),
    "horse": ("neighs", 4, "in a stable", "hay", "foal"),
    "sheep": ("bleats", 4, "in a field", "grass", "lamb"),
    "duck": ("quacks", 2, "on a pond", "weeds", "duckling"),
    "hen": ("clucks", 2, "on a farm", "seeds", "chick"),
    "owl": ("hoots", 2, "in a tree", "mice", "owlet"),
    "bee": ("buzzes", 6, "in a hive", "nectar", "larva"),
    "frog": ("croaks", 4, "by a pond", "flies", "tadpole"),
    "lion": ("roars", 4, "in the grassland", "meat", "cub"),
    "bear": ("growls", 4, "in the forest", "berries and fish", "cub"),
    "wolf": ("howls", 4, "in the forest", "meat", "pup"),
    "pig": ("oinks", 4, "on a farm", "roots", "piglet"),
    "goat": ("bleats", 4, "in the hills", "leaves", "kid"),
    "mouse": ("squeaks", 4, "in a hole", "seeds", "pup"),
    "crow": ("caws", 2, "in a tree", "seeds and insects", "chick"),
    "snake": ("hisses", 0, "in the grass", "mice", "snakelet"),
    "spider": ("makes no sound", 8, "in a web", "flies", "spiderling"),
    "ant": ("makes no sound", 6, "in a nest", "crumbs", "larva"),
}
_OPPOSITES = dict(
    pair.split(":")
    for pair in (
        "hot:cold big:small tall:short fast:slow old:young new:old happy:sad light:dark open:closed full:empty hard:soft "
        "wet:dry high:low near:far early:late loud:quiet strong:weak rich:poor clean:dirty deep:shallow wide:narrow "
        "thick:thin heavy:light right:wrong true:false up:down left:right inside:outside day:night summer:winter "
        "begin:end buy:sell give:take win:lose push:pull rise:fall love:hate laugh:cry first:last many:few always:never "
        "sweet:sour smooth:rough sharp:blunt brave:afraid kind:cruel awake:asleep above:below"
    ).split()
)
_PLURALS = dict(
    pair.split(":")
    for pair in (
        "cat:cats dog:dogs box:boxes bus:buses city:cities baby:babies leaf:leaves wolf:wolves knife:knives child:children "
        "man:men woman:women foot:feet tooth:teeth mouse:mice goose:geese sheep:sheep fish:fish book:books dish:dishes "
        "watch:watches party:parties story:stories life:lives half:halves potato:potatoes hero:heroes day:days key:keys "
        "lady:ladies bench:benches fox:foxes person:people tree:trees cup:cups"
    ).split()
)
_PASTS = dict(
    pair.split(":")
    for pair in (
        "go:went see:saw eat:ate run:ran come:came take:took give:gave find:found make:made say:said write:wrote "
        "speak:spoke think:thought bring:brought buy:bought catch:caught teach:taught sing:sang swim:swam fly:flew "
        "know:knew grow:grew draw:drew break:broke sleep:slept keep:kept leave:left build:built send:sent lose:lost "
        "walk:walked play:played jump:jumped try:tried carry:carried stop:stopped help:helped wait:waited hear:heard"
    ).split()
)
_COLORS = dict(
    pair.split(":")
    for pair in ("grass:green snow:white coal:black blood:red milk:white ivy:green chocolate:brown salt:white").split()
) | {"the sky": "blue", "the sun": "yellow", "a lemon": "yellow", "a carrot": "orange", "a ripe tomato": "red"}
_SHAPES = {"triangle": 3, "square": 4, "rectangle": 4, "pentagon": 5, "hexagon": 6, "octagon": 8}
_CAPITALS = dict(
    pair.split(":")
    for pair in (
        "France:Paris Italy:Rome Spain:Madrid Portugal:Lisbon Germany:Berlin Austria:Vienna Poland:Warsaw Norway:Oslo "
        "Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Ireland:Dublin England:London Greece:Athens Egypt:Cairo "
        "Japan:Tokyo China:Beijing Russia:Moscow Turkey:Ankara Peru:Lima Cuba:Havana Kenya:Nairobi Ghana:Accra "
        "Canada:Ottawa Latvia:Riga Estonia:Tallinn Hungary:Budapest Belgium:Brussels Chile:Santiago"
    ).split()
)
_SPELLED = tuple(
    "apple bread chair dance earth flower garden house island jacket kitchen lemon music north ocean paper queen river "
    "school table under village water yellow zebra friend winter summer bridge candle spoon cloud train horse".split()
)
_UNKNOWN = (
    "quantum physics", "the stock market", "the law of taxes", "rocket engines", "the last election", "modern art",
    "the history of banking", "brain surgery", "the weather on Mars", "black holes", "computer viruses", "opera",
    "the rules of cricket", "deep sea fishing", "ancient pottery", "the price of gold", "my exam next week", "politics",
)  # fmt: skip
_GREETINGS = (
    "[Hi|Hello|Hey|Good morning|Good evening|Hello there][!|.|]",
    "[Hi|Hello], [how are you?|nice to meet you.]",
)
_GREETED = (
    "Hello! [What can I do for you?|How can I help you?|What would you like to do?]",
    "[Hi|Good day]! [You can ask me for a story, a sum or a list.|Ask me for a story or a sum.|How can I help?]",
)
_THANKS = ("[Thanks|Thank you|Thank you very much|Great, thanks|Thanks a lot][!|.|]", "[Good|Perfect|Well done][.|!]")
_WELCOME = ("[You are welcome|My pleasure|Glad to help][!|.]", "You are welcome! [Is there anything else?|]")
_BYES = ("[Bye|Goodbye|See you|See you later|Good night][!|.|]",)
_BYE = ("[Goodbye|Bye|See you soon][!|.] [Have a nice day|Take care][!|.]",)


def exchange(rng: random.Random, held_out: bool) -> Exchange:
    """A question whose phrasing for this fact is on the right side of the split."""
    for _ in range(1000):
        key, template, made = _KINDS[rng.randrange(len(_KINDS))](rng)
        if is_held_out("fact", key, template) == held_out:
            return made
    raise ValueError("no fact is on this side of the split")


def small_talk(rng: random.Random) -> Exchange:
    """Greetings, thanks, goodbyes; there are too few to hold any out."""
    asks, replies = rng.choice(((_GREETINGS, _GREETED), (_THANKS, _WELCOME), (_BYES, _BYE)))
    reply = write(rng, any_of(rng, replies), {}).strip()
    return Exchange("small talk", write(rng, any_of(rng, asks), {}), reply, "text", "")


def unknown(rng: random.Random) -> Exchange:
    """What a model of this size should not pretend to know."""
    ask = (
        "[Explain|Tell me about|What do you know about|Can you explain|Help me with|Write an essay about] {topic}[.|?|]"
    )
    reply = (
        "I am a very small model and do not know [much about that|that]. [Ask me for a story, a sum, a list or a date.|"
        "I can tell stories, add numbers, sort lists and fill in JSON.]"
    )
    return Exchange(
        "small talk", write(rng, ask, {"topic": any_of(rng, _UNKNOWN)}), write(rng, reply, {}), "text", "small model"
    )


Made = tuple[str, str, Exchange]


def _asked(rng: random.Random, key: str, asks: tuple[str, ...], reply: str, answer: str) -> Made:
    template = any_of(rng, asks)
    return key, template, Exchange("facts", template, reply, "text", answer)


def _animal(rng: random.Random) -> Made:
    name = any_of(rng, tuple(_ANIMALS))
    sound, legs, home, food, young = _ANIMALS[name]
    one = with_article(name)
    kind = rng.randrange(5)
    if kind == 0:
        asks = (
            f"What sound does {one} make?",
            f"How does {one} sound?",
            f"What does {one} say?",
            f"Which sound does {one} make?",
        )
        return _asked(rng, f"sound {name}", asks, f"{one.capitalize()} {sound}.", sound)
    if kind == 1:
        asks = (
            f"How many legs does {one} have?",
            f"Number of legs of {one}?",
            f"{one.capitalize()} has how many legs?",
            f"Tell me how many legs {one} has.",
        )
        count = "no legs" if legs == 0 else f"{legs} legs"
        return _asked(rng, f"legs {name}", asks, f"{one.capitalize()} has {count}.", count)
    if kind == 2:
        asks = (
            f"Where does {one} live?",
            f"What is the home of {one}?",
            f"Where can I find {one}?",
            f"Where is {one} at home?",
        )
        return _asked(rng, f"home {name}", asks, f"{one.capitalize()} lives {home}.", home)
    if kind == 3:
        asks = (
            f"What does {one} eat?",
            f"What is the food of {one}?",
            f"What do I feed {one}?",
            f"Tell me what {one} eats.",
        )
        return _asked(rng, f"food {name}", asks, f"{one.capitalize()} eats {food}.", food)
    asks = (
        f"What is a young {name} called?",
        f"What do you call a baby {name}?",
        f"What is the name for a young {name}?",
        f"A baby {name} is called what?",
    )
    return _asked(rng, f"young {name}", asks, f"A young {name} is called {with_article(young)}.", young)


def _table(table: dict[str, str], asks: tuple[str, ...], reply: str) -> Callable[[random.Random], Made]:
    """Questions about a table of two columns; {k} is the left one, {v} the right."""
    keys = tuple(table)

    def make(rng: random.Random) -> Made:
        key = any_of(rng, keys)
        template = any_of(rng, asks)
        question, answer = template.replace("{k}", key), reply.replace("{k}", key).replace("{v}", table[key])
        return key, template, Exchange("facts", question, answer, "text", table[key])

    return make


def _spell(rng: random.Random) -> Made:
    word = any_of(rng, _SPELLED)
    spelled = "-".join(word)
    if rng.random() < 0.5:
        asks = (
            f"Spell {word}.",
            f"How do you spell {word}?",
            f"Please spell the word {word}.",
            f"Spell the word {word}.",
        )
        return _asked(rng, f"spell {word}", asks, spelled, spelled)
    asks = (
        f"How many letters does {word} have?",
        f"How many letters are in {word}?",
        f"Count the letters of {word}.",
        f"Number of letters in {word}?",
    )
    return _asked(rng, f"letters {word}", asks, f"{spelled}: {len(word)} letters.", f"{len(word)} letters")


_KINDS: tuple[Callable[[random.Random], Made], ...] = (
    _animal,
    _animal,
    _table(_OPPOSITES, ("What is the opposite of {k}?", "Opposite of {k}?", "Give me the opposite of {k}.", "Which word is the opposite of {k}?"), "The opposite of {k} is {v}."),
    _table(_PLURALS, ("What is the plural of {k}?", "Plural of {k}?", "Give me the plural of {k}.", "One {k}, two what?"), "The plural of {k} is {v}."),
    _table(_PASTS, ("What is the past tense of {k}?", "Past tense of {k}?", "Give me the past tense of {k}.", "Put {k} into the past."), "The past tense of {k} is {v}."),
    _table(_COLORS, ("What color is {k}?", "What is the color of {k}?", "Which color has {k}?", "Tell me the color of {k}."), "The color of {k} is {v}."),
    _table({k: str(v) for k, v in _SHAPES.items()}, ("How many sides does a {k} have?", "How many corners has a {k}?", "Number of sides of a {k}?", "A {k} has how many sides?"), "A {k} has {v} sides."),
    _table(_CAPITALS, ("What is the capital of {k}?", "Capital of {k}?", "Which city is the capital of {k}?", "Name the capital of {k}."), "The capital of {k} is {v}."),
    _spell,
)  # fmt: skip
