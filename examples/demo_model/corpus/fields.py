"""Fields of a short text as JSON: people, orders, events, contacts, pets, books, trips."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from corpus import dates
from corpus.exchange import Exchange
from corpus.grammar import any_of, listed, with_article, write
from corpus.names import city, first_name, full_name, invented, last_name

_JOBS = (
    "baker", "teacher", "nurse", "farmer", "pilot", "painter", "doctor", "driver", "singer", "gardener", "cook",
    "carpenter", "writer", "tailor", "engineer", "sailor", "dentist", "librarian", "plumber", "clerk",
)  # fmt: skip
_ITEMS = (
    "lamps", "chairs", "books", "cups", "shirts", "plates", "pens", "boxes", "candles", "bags", "hats", "clocks",
    "towels", "baskets", "carpets", "mirrors", "scarves", "bottles", "shoes", "blankets",
)  # fmt: skip
_COLORS = ("red", "blue", "green", "yellow", "black", "white", "brown", "grey", "orange", "purple")
_EVENTS = (
    "the meeting", "the concert", "the lunch", "the workshop", "the party", "the class", "the match", "the market",
    "the talk", "the picnic", "the wedding", "the fair",
)  # fmt: skip
_PETS = ("cat", "dog", "rabbit", "parrot", "hamster", "turtle", "pony", "goat", "mouse", "goose")
_HOSTS = ("mail", "post", "home", "work", "letters", "box")
_ENDINGS = ("com", "org", "net")

Fields = dict[str, Any]


def _person(rng: random.Random, held_out: bool) -> tuple[Fields, str]:
    fields = {
        "name": full_name(rng, held_out),
        "age": rng.randint(18, 90),
        "city": city(rng, held_out),
        "job": any_of(rng, _JOBS),
    }
    text = (
        "{name}, {age}, [lives in {city} and works as a_job|is a_job in {city}|is a_job from {city}].",
        "{name} is {age} years old, lives in {city} and [works as|is] a_job.",
        "[My name is|I am] {name}. I am {age} [years old|] and I [work as|am] a_job in {city}.",
        "[Meet {name}|This is {name}], a_job from {city} who is {age}.",
    )
    return fields, any_of(rng, text).replace("a_job", with_article(str(fields["job"])))


def _order(rng: random.Random, held_out: bool) -> tuple[Fields, str]:
    fields = {
        "customer": full_name(rng, held_out),
        "item": any_of(rng, _ITEMS),
        "color": any_of(rng, _COLORS),
        "quantity": rng.randint(2, 60),
        "price": rng.randint(5, 400),
    }
    text = (
        "{customer} [ordered|bought] {quantity} {color} {item} for {price} dollars.",
        "[Order|New order]: {quantity} {color} {item} for {customer}, {price} dollars [in total|].",
        "[Please send|We sent] {quantity} {color} {item} to {customer}. The price is {price} dollars.",
    )
    return fields, any_of(rng, text)


def _event(rng: random.Random, held_out: bool) -> tuple[Fields, str]:
    day = dates.date(rng, held_out)
    fields = {
        "event": any_of(rng, _EVENTS).removeprefix("the "),
        "date": day.isoformat(),
        "time": f"{rng.randint(8, 21):02}:{rng.choice((0, 15, 30, 45)):02}",
        "place": city(rng, held_out),
    }
    words = any_of(rng, (day.isoformat(), dates.in_words(day)))
    text = (
        f"The {{event}} is on {words} at {{time}} in {{place}}.",
        f"[Come to|Join us for] the {{event}} in {{place}} on {words}, [it starts at|at] {{time}}.",
        f"On {words} at {{time}} there is a {{event}} in {{place}}.",
    )
    return fields, any_of(rng, text)


def _contact(rng: random.Random, held_out: bool) -> tuple[Fields, str]:
    first = first_name(rng, held_out)
    number = f"{rng.randint(200, 999)}-{rng.randint(1000, 9999)}"
    mail = (
        f"{first.lower()}{rng.choice(('', '', str(rng.randint(1, 99))))}@{any_of(rng, _HOSTS)}.{any_of(rng, _ENDINGS)}"
    )
    fields = {"name": first, "email": mail, "phone": number}
    text = (
        "[You can reach|Write to|Contact] {name} at {email} or [call|phone] {phone}.",
        "{name}'s [email|mail] is {email} and [the phone number is|the number is] {phone}.",
        "Call {phone} and ask for {name}, or write to {email}.",
    )
    return fields, any_of(rng, text)


def _pet(rng: random.Random, held_out: bool) -> tuple[Fields, str]:
    fields = {
        "owner": first_name(rng, held_out),
        "pet": first_name(rng, held_out),
        "kind": any_of(rng, _PETS),
        "age": rng.randint(1, 19),
        "color": any_of(rng, _COLORS),
    }
    article = with_article(str(fields["color"]))
    text = (
        f"{{owner}} has {article} {{kind}} [called|named] {{pet}}[, which is {{age}} years old|. It is {{age}}].",
        f"{{pet}} is {article} {{kind}} of {{age}} years and belongs to {{owner}}.",
    )
    return fields, any_of(rng, text)


def _book(rng: random.Random, held_out: bool) -> tuple[Fields, str]:
    subject = any_of(rng, ("River", "Garden", "Lamp", "Winter", "House", "Road", "Bird", "Clock", "Island", "Letter"))
    title = any_of(
        rng,
        (
            f"The {subject} of {invented(rng)}",
            f"The {rng.choice(_COLORS).capitalize()} {subject}",
            f"A {subject} for {first_name(rng, held_out)}",
        ),
    )
    fields = {
        "title": title,
        "author": full_name(rng, held_out),
        "year": rng.randint(1900, 2024),
        "pages": rng.randint(60, 900),
    }
    text = (
        '"{title}" by {author} [came out|was printed] in {year} and has {pages} pages.',
        '{author} wrote "{title}" in {year}. [It|The book] has {pages} pages.',
    )
    return fields, any_of(rng, text)


def _trip(rng: random.Random, held_out: bool) -> tuple[Fields, str]:
    fields = {
        "traveler": first_name(rng, held_out),
        "from": city(rng, held_out),
        "to": city(rng, held_out),
        "day": any_of(rng, dates.DAYS),
        "by": any_of(rng, ("train", "bus", "car", "plane", "boat")),
    }
    text = (
        "On {day}, {traveler} [goes|travels] from {from} to {to} by {by}.",
        "{traveler} takes the {by} from {from} to {to} [on|this] {day}.",
    )
    return fields, any_of(rng, text)


def _address(rng: random.Random, held_out: bool) -> tuple[Fields, str]:
    fields = {
        "name": full_name(rng, held_out),
        "street": f"{last_name(rng, held_out)} {any_of(rng, ('Street', 'Road', 'Lane', 'Square'))}",
        "number": rng.randint(1, 250),
        "zip": f"{rng.randint(10000, 99999)}",
        "city": city(rng, held_out),
    }
    text = (
        "{name} lives at {number} {street}, {zip} {city}.",
        "[Send it to|The address is|Ship to] {name}, {number} {street}, {city} {zip}.",
        "[I have moved|I moved]. [My new address is|Write to me at] {number} {street} in {city}, {zip}. [Yours,|Regards,] {name}",
    )
    return fields, any_of(rng, text)


def _seat(rng: random.Random, held_out: bool) -> tuple[Fields, str]:
    fields = {
        "passenger": full_name(rng, held_out),
        "flight": f"{rng.choice('ABCDEFGHKLMNPQRSTVWX')}{rng.choice('ABCDEFGHKLMNPQRSTVWX')}{rng.randint(10, 999)}",
        "seat": f"{rng.randint(1, 40)}{rng.choice('ABCDEF')}",
        "gate": f"{rng.choice('ABCD')}{rng.randint(1, 30)}",
        "destination": city(rng, held_out),
    }
    text = (
        "{passenger} has seat {seat} on flight {flight} to {destination}, gate {gate}.",
        "Flight {flight} to {destination} [leaves|boards] at gate {gate}. {passenger} sits in {seat}.",
        "[Passenger|Traveler] {passenger}: flight {flight}, seat {seat}, gate {gate}, to {destination}.",
    )
    return fields, any_of(rng, text)


def _machine(rng: random.Random, held_out: bool) -> tuple[Fields, str]:
    fields = {
        "device": any_of(rng, ("printer", "phone", "laptop", "camera", "radio", "router", "heater", "fridge")),
        "maker": last_name(rng, held_out),
        "model": f"{rng.choice('ABCDEFGHKMNPRSTVXZ')}{rng.randint(2, 990)}",
        "price": rng.randint(20, 999),
        "broken": rng.random() < 0.5,
    }
    state = any_of(rng, ("broken", "out of order") if fields["broken"] else ("fine", "working"))
    text = (
        f"The {{maker}} {{model}} is a {{device}} for {{price}} dollars. Ours is {state}.",
        f"[Our|My] {{device}}, the {{model}} by {{maker}}, is {state}. It cost {{price}} dollars.",
    )
    return fields, any_of(rng, text)


_KINDS: tuple[Callable[[random.Random, bool], tuple[Fields, str]], ...] = (
    _person, _person, _order, _event, _contact, _pet, _book, _trip, _address, _seat, _machine,
)  # fmt: skip
_ASK = (
    "[Extract|Give me|Find|Pull out] {keys} as JSON[: |.\n|:\n]{text}",
    "{text}\n[Extract|Give|Write] {keys} as JSON.",
    "[Turn this into JSON with|Make a JSON object with|Return JSON with] {keys}[: |:\n]{text}",
    "Text: {text}\n[Fields|Keys]: {plain}\n[Answer in JSON.|Answer with JSON only.|JSON:]",
)


def exchange(rng: random.Random, held_out: bool) -> Exchange:
    """A text, the fields that are asked for in the order asked, and the JSON."""
    fields, template = _KINDS[rng.randrange(len(_KINDS))](rng, held_out)
    text = write(rng, template, {key: str(value) for key, value in fields.items()})
    keys = list(fields)
    rng.shuffle(keys)
    keys = [key for key in keys if key in text or str(fields[key]) in text or key in ("date", "broken")]
    keys = keys[: rng.randint(1, len(keys))] if rng.random() < 0.6 else keys
    wanted = {key: fields[key] for key in keys}
    names = listed(
        [f'"{key}"' for key in keys] if rng.random() < 0.3 else [any_of(rng, ("", "the ")) + key for key in keys]
    )
    question = write(rng, any_of(rng, _ASK), {"keys": names, "text": text, "plain": ", ".join(keys)})
    answer = json.dumps(wanted)
    return Exchange("json", question, answer, "json", answer)
