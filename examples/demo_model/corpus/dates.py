"""Days, months, dates and units."""

from __future__ import annotations

import datetime
import random

from corpus.exchange import Exchange
from corpus.grammar import write
from corpus.split import draw, is_held_out

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# (from, to, how many, the largest number that is asked about)
_UNITS = (
    ("kilometers", "meters", 1000, 99),
    ("meters", "centimeters", 100, 99),
    ("centimeters", "millimeters", 10, 99),
    ("kilograms", "grams", 1000, 99),
    ("liters", "milliliters", 1000, 99),
    ("hours", "minutes", 60, 12),
    ("minutes", "seconds", 60, 12),
    ("days", "hours", 24, 7),
    ("weeks", "days", 7, 12),
    ("years", "months", 12, 10),
    ("dozens", "pieces", 12, 10),
)


def exchange(rng: random.Random, held_out: bool) -> Exchange:
    """A question about time or measure."""
    kind = rng.random()
    if kind < 0.2:
        return _calendar(rng)
    if kind < 0.45:
        return _written(rng, held_out)
    if kind < 0.7:
        return _later(rng, held_out)
    return _unit(rng, held_out)


def date(rng: random.Random, held_out: bool) -> datetime.date:
    """A date of this half century, on the right side of the split."""
    first = datetime.date(1990, 1, 1)
    return draw(lambda: first + datetime.timedelta(rng.randrange(365 * 45)), lambda day: ("date", day), held_out)


def in_words(day: datetime.date) -> str:
    """March 5, 2021."""
    return f"{MONTHS[day.month - 1]} {day.day}, {day.year}"


def _calendar(rng: random.Random) -> Exchange:
    """Facts of the calendar; there are too few to hold any out."""
    kind = rng.randrange(4)
    place = rng.randrange(7)
    if kind == 0:
        step, word = rng.choice(((1, "after"), (-1, "before")))
        answer = DAYS[(place + step) % 7]
        question = write(rng, f"[What|Which] day [comes|is] {word} {DAYS[place]}?", {})
        return Exchange("dates", question, f"{answer} comes {word} {DAYS[place]}.", "text", answer)
    month = rng.randrange(12)
    if kind == 1:
        step, word = rng.choice(((1, "after"), (-1, "before")))
        answer = MONTHS[(month + step) % 12]
        question = write(rng, f"[What|Which] month [comes|is] {word} {MONTHS[month]}?", {})
        return Exchange("dates", question, f"{answer} comes {word} {MONTHS[month]}.", "text", answer)
    if kind == 2:
        note = ", or 29 in a leap year" if month == 1 else ""
        question = write(
            rng, f"How many days [does {MONTHS[month]} have|are in {MONTHS[month]}|are there in {MONTHS[month]}]?", {}
        )
        return Exchange(
            "dates", question, f"{MONTHS[month]} has {_LENGTHS[month]} days{note}.", "text", str(_LENGTHS[month])
        )
    question = write(rng, f"[Which number is|What is the number of] the month of {MONTHS[month]}?", {})
    return Exchange("dates", question, f"{MONTHS[month]} is month {month + 1}.", "number", str(month + 1))


def _written(rng: random.Random, held_out: bool) -> Exchange:
    day = date(rng, held_out)
    if rng.random() < 0.6:
        ask = f"[Write|Give me|Please write] {in_words(day)} as [a date like 2020-01-31|YYYY-MM-DD|an ISO date][.|]"
        return Exchange("dates", write(rng, ask, {}), day.isoformat(), "text", day.isoformat())
    ask = f"[Write|Please write|Say] {day.isoformat()} in words[.|]"
    return Exchange("dates", write(rng, ask, {}), in_words(day), "text", in_words(day))


def _later(rng: random.Random, held_out: bool) -> Exchange:
    """A weekday some days on, or a date some days on."""
    if rng.random() < 0.4:
        start, days = rng.randrange(7), rng.randint(2, 6)
        if is_held_out("weekday", start, days) != held_out:
            return _later(rng, held_out)
        answer = DAYS[(start + days) % 7]
        passed = ", ".join(DAYS[(start + i) % 7] for i in range(1, days + 1))
        ask = f"[Today is {DAYS[start]}. What day [is it|will it be] in {days} days?|Which day is {days} days after {DAYS[start]}?]"
        return Exchange("dates", write(rng, ask, {}), f"{passed}. It is {answer}.", "text", f"It is {answer}")
    day, days = date(rng, held_out), rng.randint(1, 9)
    answer = in_words(day + datetime.timedelta(days))
    one = "1 day" if days == 1 else f"{days} days"
    ask = f"[What is the date {one} after {in_words(day)}?|Which date is {one} after {in_words(day)}?]"
    return Exchange("dates", write(rng, ask, {}), f"It is {answer}.", "text", answer)


def _unit(rng: random.Random, held_out: bool) -> Exchange:
    def make() -> tuple[tuple[str, str, int, int], int]:
        unit = rng.choice(_UNITS)
        return unit, rng.randint(2, unit[3])

    (large, small, factor, _), number = draw(make, lambda made: ("unit", made[0][0], made[1]), held_out)
    ask = f"[How many {small} are [in |]{number} {large}?|Convert {number} {large} to {small}[.|]|{number} {large} in {small}?]"
    answer = number * factor
    return Exchange("units", write(rng, ask, {}), f"{number} {large} are {answer} {small}.", "text", str(answer))
