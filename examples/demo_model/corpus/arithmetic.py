"""Sums, differences and small products: bare lines, questions, worked steps and stories in two sentences."""

from __future__ import annotations

import random

from corpus.exchange import Exchange
from corpus.grammar import any_of, write
from corpus.names import first_name
from corpus.split import is_held_out, pair

_ASK_SUM = (
    "[What is|How much is|What's|Calculate|Compute|Tell me] {a} + {b}[?|.|]",
    "[What is|How much is|Tell me|Work out] {a} plus {b}[?|]",
    "[Add|Please add|Can you add] {a} and {b}[.|?|]",
    "{a} + {b}[ = ?| =||?]",
    "[What is|Find|Give me] the sum of {a} and {b}[?|.]",
)
_ASK_DIFFERENCE = (
    "[What is|How much is|What's|Calculate|Compute|Tell me] {a} - {b}[?|.|]",
    "[What is|How much is|Tell me|Work out] {a} minus {b}[?|]",
    "[Take|Subtract] {b} from {a}[.|]",
    "{a} - {b}[ = ?| =||?]",
    "[What is|Find] the difference of {a} and {b}?",
)
_ASK_PRODUCT = (
    "[What is|How much is|What's|Calculate|Compute] {a} [x|times|*] {b}[?|]",
    "[Multiply|Please multiply] {a} by {b}[.|]",
    "{a} [x|*] {b}[ = ?| =|?]",
)
_STEPS = ("Show [your work|the steps].", "Work it out step by step.", "Explain how.", "Step by step, please.")
_THINGS = (
    "apples", "shells", "stamps", "books", "marbles", "cookies", "pencils", "stones", "coins", "cards", "buttons",
    "eggs", "plums", "stickers", "beads", "nuts", "roses", "tickets", "balloons", "cups",
)  # fmt: skip
_GAIN = (
    "{name} has {a} {things} and [finds|gets|buys|is given] {b} more.",
    "There are {a} {things} in one box and {b} in another.",
    "{name} [picks|collects|counts] {a} {things} on Monday and {b} on Tuesday.",
)
_LOSS = (
    "{name} has {a} {things} and [loses|gives away|sells|uses] {b}.",
    "There are {a} {things} on the table. {name} takes away {b}.",
)


def exchange(rng: random.Random, held_out: bool) -> Exchange:
    """A question about two numbers."""
    kind = rng.random()
    if kind < 0.5:
        return sums(rng, held_out)
    return difference(rng, held_out) if kind < 0.8 else product(rng, held_out)


def sums(rng: random.Random, held_out: bool) -> Exchange:
    """A sum, of two digits mostly."""
    a, b = _operands(rng, "sum", held_out)
    values = {"a": str(a), "b": str(b)}
    answer = str(a + b)
    if rng.random() < 0.15:
        return _told(rng, _GAIN, a, b, "+", a + b, held_out)
    question = write(rng, any_of(rng, _ASK_SUM), values)
    if rng.random() < 0.12 and not question.endswith("="):
        return Exchange("sums", f"{question} {write(rng, any_of(rng, _STEPS), {})}", added(a, b), "number", answer)
    return Exchange("sums", question, f"{a} + {b} = {answer}", "number", answer)


def difference(rng: random.Random, held_out: bool) -> Exchange:
    """A difference that is not negative."""
    a, b = sorted(_operands(rng, "difference", held_out), reverse=True)
    if rng.random() < 0.15:
        return _told(rng, _LOSS, a, b, "-", a - b, held_out)
    question = write(rng, any_of(rng, _ASK_DIFFERENCE), {"a": str(a), "b": str(b)})
    return Exchange("differences", question, f"{a} - {b} = {a - b}", "number", str(a - b))


def product(rng: random.Random, held_out: bool) -> Exchange:
    """A product of the small table, counted out."""
    while True:
        a, b = rng.randint(2, 10), rng.randint(2, 10)
        if _is_product_held_out(a, b) == held_out:
            break
    question = write(rng, any_of(rng, _ASK_PRODUCT), {"a": str(a), "b": str(b)})
    return Exchange("products", question, multiplied(a, b), "number", str(a * b))


def added(a: int, b: int) -> str:
    """A sum in steps: "7 + 8 = 15, write 5, carry 1. 4 + 3 + 1 = 8. So 47 + 38 = 85."."""
    steps, carry, x, y = [], 0, a, b
    while x or y or carry:
        parts = [str(x % 10), str(y % 10)] if x or y else []
        parts += [str(carry)] if carry else []
        column = x % 10 + y % 10 + carry
        carry = column // 10 if x > 9 or y > 9 else 0
        step = f"{' + '.join(parts)} = {column}" if len(parts) > 1 else ""
        if step:
            steps.append(f"{step}, write {column % 10}, carry {carry}." if carry else f"{step}.")
        x, y = x // 10, y // 10
    return " ".join([*steps, f"So {a} + {b} = {a + b}"])


def multiplied(a: int, b: int) -> str:
    """A product by counting: "Count by 8: 8, 16, 24. So 3 x 8 = 24"."""
    return f"Count by {b}: {', '.join(str(b * i) for i in range(1, a + 1))}. So {a} x {b} = {a * b}"


def lines(rng: random.Random, held_out: bool) -> str:
    """Bare lines of sums and differences."""
    out = []
    only = rng.random()
    for _ in range(rng.randint(4, 30)):
        if only < 0.4 or (only > 0.65 and rng.random() < 0.5):
            a, b = _operands(rng, "sum", held_out)
            out.append(f"{a} + {b} = {a + b}")
        else:
            a, b = sorted(_operands(rng, "difference", held_out), reverse=True)
            out.append(f"{a} - {b} = {a - b}")
    return "\n".join(out) + "\n"


def _operands(rng: random.Random, kind: str, held_out: bool) -> tuple[int, int]:
    """Two digits each for the most part; held-out ones always, since their figure is reported."""
    if held_out or rng.random() < 0.75:
        return pair(rng, kind, 10, 99, held_out)
    return pair(rng, kind, 0, rng.choice((9, 20, 99, 999)), held_out)


def _is_product_held_out(a: int, b: int) -> bool:
    return min(a, b) > 2 and is_held_out("product", min(a, b), max(a, b))


def _told(
    rng: random.Random, texts: tuple[str, ...], a: int, b: int, sign: str, result: int, held_out: bool
) -> Exchange:
    values = {"a": str(a), "b": str(b), "name": first_name(rng, held_out), "things": any_of(rng, _THINGS)}
    text = write(rng, any_of(rng, texts), values)
    question = f"{text} [How many {{things}} are there now?|How many {{things}} is that?]"
    if sign == "-":
        question = f"{text} How many {{things}} are left?"
    question = write(rng, question, values)
    task = "sums" if sign == "+" else "differences"
    return Exchange(task, question, f"{a} {sign} {b} = {result}", "number", str(result))
