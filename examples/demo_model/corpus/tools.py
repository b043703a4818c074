"""Calls of tools: a few functions are described, one is called, its result comes back and is told."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corpus import dates
from corpus.exchange import Exchange
from corpus.grammar import any_of, write
from corpus.names import city, first_name

Values = dict[str, Any]


@dataclass(frozen=True)
class _Tool:
    """A function that may have several names, how it is asked for, what it gives, and how that is told."""

    names: tuple[str, ...]
    about: str
    parameters: Mapping[str, tuple[str, tuple[str, ...]]]  # kind of value: JSON type, names of the parameter
    asks: tuple[str, ...]
    result: Mapping[str, str]  # field: kind of value
    told: str


_TOOLS = (
    _Tool(("get_weather", "weather", "current_weather", "fetch_weather"), "The weather in a city",
          {"city": ("string", ("city", "place", "location"))},
          ("[What is|How is|Tell me|Check] the weather [like in|in] {city}[?|.|]", "[Is it warm in|Do I need a coat in|Will it rain in] {city}?"),
          {"sky": "sky", "degrees": "degrees"}, "It is {sky} in {city}, {degrees} degrees."),
    _Tool(("get_time", "local_time", "time_in", "clock"), "The time in a city",
          {"city": ("string", ("city", "place", "location"))},
          ("What time is it in {city}?", "[Tell me|Give me] the time in {city}[.|]", "How late is it in {city}?"),
          {"time": "time"}, "It is {time} in {city}."),
    _Tool(("set_timer", "start_timer", "timer"), "Start a timer",
          {"minutes": ("integer", ("minutes", "length", "duration"))},
          ("[Set|Start] a timer for {minutes} minutes[.|]", "[Remind|Wake] me in {minutes} minutes[.|]", "Timer, {minutes} minutes[.|]"),
          {"ends": "time"}, "The timer for {minutes} minutes is set. It ends at {ends}."),
    _Tool(("send_message", "message", "send_text", "text_person"), "Send a message to a person",
          {"name": ("string", ("to", "name", "person")), "text": ("string", ("text", "message", "body"))},
          ("[Tell|Write to|Message] {name}[:| that] {text}[.|]", "Send {name} the message: {text}", "[Send|Write] a message to {name}: {text}"),
          {"status": "sent"}, "Your message to {name} was {status}."),
    _Tool(("add", "sum_of", "add_numbers", "plus"), "Add two numbers",
          {"a": ("integer", ("a", "x", "first")), "b": ("integer", ("b", "y", "second"))},
          ("[Add|Use the tool to add] {a} and {b}[.|]", "[What is|How much is] {a} plus {b}?"),
          {"result": "sum"}, "{a} + {b} = {result}"),
    _Tool(("find_book", "search_books", "book_search"), "Find books about a topic",
          {"topic": ("string", ("topic", "subject", "query"))},
          ("[Find|Show me|Look for|I want] a book about {topic}[.|]", "[Is there|Do you have] a book about {topic}?"),
          {"title": "title", "pages": "pages"}, 'I found "{title}", which has {pages} pages.'),
    _Tool(("play_music", "play", "play_song", "start_music"), "Play music",
          {"music": ("string", ("kind", "genre", "style"))},
          ("[Play|Put on|I want to hear] [some |]{music} music[.|]", "Can you play {music} music?"),
          {"status": "playing"}, "Now {status} {music} music."),
    _Tool(("set_light", "light", "switch_light", "lamp"), "Switch the light of a room",
          {"room": ("string", ("room", "place", "where")), "state": ("string", ("state", "value", "power"))},
          ("[Turn|Switch] {state} the light in the {room}[.|]", "[Turn|Switch] the {room} light {state}[.|]"),
          {"status": "done"}, "The light in the {room} is {state}."),
    _Tool(("convert_money", "exchange_money", "currency"), "Convert money to another currency",
          {"amount": ("integer", ("amount", "value", "sum")), "money": ("string", ("from", "source")), "other": ("string", ("to", "target"))},
          ("[Convert|Change] {amount} {money} to {other}[.|]", "How much are {amount} {money} in {other}?"),
          {"result": "amount"}, "{amount} {money} are {result} {other}."),
    _Tool(("add_event", "calendar_add", "new_event", "schedule"), "Put an event into the calendar",
          {"event": ("string", ("title", "event", "name")), "day": ("string", ("day", "date", "when"))},
          ("[Add|Put] {event} [to my calendar on|in my calendar for] {day}[.|]", "[Plan|Schedule] {event} [for|on] {day}[.|]"),
          {"status": "saved"}, "The {event} on {day} is {status}."),
)  # fmt: skip
_TEXTS = ("I am late", "dinner is ready", "the door is open", "see you at noon", "the train is here", "call me back",
          "I found the key", "happy birthday", "we are home", "please bring bread", "the cat is fine", "I will wait")  # fmt: skip
_TOPICS = ("birds", "trains", "the sea", "gardens", "maps", "bread", "stars", "horses", "winter", "ships", "clocks",
           "mountains", "bees", "music", "the moon", "rivers", "trees", "kings")  # fmt: skip
_KINDS = ("jazz", "folk", "piano", "rock", "guitar", "quiet", "dance", "happy", "slow", "classical")
_ROOMS = ("kitchen", "bathroom", "bedroom", "hall", "office", "garage", "living room", "garden")
_MONEY = ("dollars", "euros", "pounds", "francs", "yen", "pesos", "kronor", "rupees")
_PLANS = ("lunch", "dentist", "meeting", "football", "piano lesson", "party", "shopping", "exam", "picnic", "haircut")
_SKIES = ("sunny", "cloudy", "rainy", "windy", "snowy", "clear", "foggy")


def _values(rng: random.Random, held_out: bool) -> Values:
    """One value of each kind."""
    money, other = rng.sample(_MONEY, 2)
    a, b = rng.randint(100, 999), rng.randint(100, 999)
    return {
        "city": city(rng, held_out), "minutes": rng.randint(2, 90), "name": first_name(rng, held_out),
        "text": any_of(rng, _TEXTS), "a": a, "b": b, "sum": a + b, "topic": any_of(rng, _TOPICS),
        "music": any_of(rng, _KINDS), "room": any_of(rng, _ROOMS), "state": any_of(rng, ("on", "off")),
        "amount": rng.randint(2, 500), "money": money, "other": other, "event": any_of(rng, _PLANS),
        "day": any_of(rng, dates.DAYS), "sky": any_of(rng, _SKIES), "degrees": rng.randint(-10, 35),
        "time": f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}", "sent": "sent", "playing": "playing", "done": "done",
        "saved": "saved", "title": f"The Book of {any_of(rng, _TOPICS).split()[-1].capitalize()}",
        "pages": rng.randint(40, 600),
    }  # fmt: skip


def exchange(rng: random.Random, held_out: bool) -> Exchange:
    """A question that one of the tools at hand answers, its call, its result, and the answer."""
    tools = rng.sample(_TOOLS, rng.randint(1, 3))
    tool = tools[rng.randrange(len(tools))]
    values = _values(rng, held_out)
    schemas, called = [], {}
    for one in tools:
        name = any_of(rng, one.names)
        parameters = {kind: any_of(rng, names) for kind, (_, names) in one.parameters.items()}
        schemas.append(_schema(one, name, parameters))
        if one is tool:
            called = {"name": name, "arguments": {given: values[kind] for kind, given in parameters.items()}}
    shown = {key: str(value) for key, value in values.items()}
    question = write(rng, any_of(rng, tool.asks), shown)
    result = {field: values[kind] for field, kind in tool.result.items()}
    told = tool.told.format_map(shown | {field: str(value) for field, value in result.items()})
    after = ({"role": "tool", "content": json.dumps(result)}, {"role": "assistant", "content": told})
    return Exchange("tools", question, "", "call", json.dumps(called), tools=schemas, calls=[called], after=after)


def _schema(tool: _Tool, name: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    properties = {given: {"type": tool.parameters[kind][0]} for kind, given in parameters.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": tool.about,
            "parameters": {"type": "object", "properties": properties, "required": list(properties)},
        },
    }
