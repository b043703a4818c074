"""What a demo model can do, on held-out number pairs, names and story frames; and that two engines agree on it.

    python evaluate.py aphrodite_demo/demo --engine aphrodite
    python evaluate.py FOLDER --engine both --json figures.json

--engine aphrodite     our engine
--engine transformers  Transformers, on a GPU if there is one
--engine both          our engine, and then the greedy tokens of both over 200 prompts in float32; they must be equal

Questions are asked in the chat format and answered greedily; a reply counts as right only if it also stops by itself.
Stories are drawn at temperature 0.7.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import prose
from corpus import arithmetic, chats, dates, facts, fields, lists, mix, project, stories, tools
from corpus.exchange import Exchange
from corpus.template import BEGIN, render
from engines import Engine, Reply, make_engine

ASKED: dict[str, Callable[[random.Random, bool], Exchange]] = {
    "sums": arithmetic.sums,
    "differences": arithmetic.difference,
    "products": arithmetic.product,
    "json": fields.exchange,
    "dates": dates.exchange,
    "lists": lists.exchange,
    "facts": facts.exchange,
    "project": project.exchange,
    "tools": tools.exchange,
    "memory": chats.remembered,
}
AGREE_ON = 200
_LONGEST_REPLY = 160
_STORY_TOKENS = 100


def main() -> int:
    """Ask everything, print the table; 1 if engines that should agree do not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", choices=("aphrodite", "transformers", "both"), default="aphrodite")
    parser.add_argument("--questions", type=int, default=200, help="of each task")
    parser.add_argument("--stories", type=int, default=50)
    parser.add_argument("--agree-on", type=int, default=AGREE_ON, help="prompts over which both must agree")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--show", type=int, default=0, help="print that many wrong replies of each task, and stories")
    args = parser.parse_args()

    first = "transformers" if args.engine == "transformers" else "aphrodite"
    began = time.perf_counter()
    with make_engine(first, args.folder) as engine:
        figures: dict[str, Any] = {"model": args.folder.name, "engine": engine.name, "seed": args.seed}
        figures["tasks"] = {
            task: asked(engine, task, make, args) | {"perplexity": perplexity(engine, task, args)}
            for task, make in ASKED.items()
        }
        figures["chats"] = multi_turn(engine, args)
        figures["stories"] = told(engine, args) | {"perplexity": perplexity(engine, "stories", args)}
    print(table(figures))
    wrong = 0
    if args.engine == "both":
        figures["agreement"] = agreement(args)
        wrong = figures["agreement"]["prompts"] - figures["agreement"]["equal"]
        equal, prompts, tokens = (figures["agreement"][key] for key in ("equal", "prompts", "tokens"))
        print(f"\nAphrodite and Transformers, float32: equal greedy tokens for {equal} of {prompts} held-out prompts")
        print(f"({tokens} tokens)")
    print(f"{time.perf_counter() - began:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if wrong else 0


def questions(task: str, make: Callable[[random.Random, bool], Exchange], args: argparse.Namespace) -> list[Exchange]:
    """The held-out questions of a task."""
    rng = random.Random(f"evaluate {task} {args.seed}")
    return [make(rng, True) for _ in range(args.questions)]


def prompt_of(exchange: Exchange) -> str:
    """All that comes before the reply."""
    messages = [*exchange.before, {"role": "user", "content": exchange.user}]
    return render(messages, exchange.tools, open_answer=True)


def asked(
    engine: Engine, task: str, make: Callable[[random.Random, bool], Exchange], args: argparse.Namespace
) -> dict[str, Any]:
    """How many questions of a task are answered right, how many replies stop, and for JSON how many are JSON at all."""
    items = questions(task, make, args)
    replies = engine.greedy([prompt_of(item) for item in items], _LONGEST_REPLY)
    right = [reply.stopped and item.is_right(reply.text) for item, reply in zip(items, replies, strict=True)]
    for item, reply in [pair for pair, good in zip(zip(items, replies, strict=True), right, strict=True) if not good][
        : args.show
    ]:
        print(f"--- {task}: {item.user!r}\n    wanted {item.answer!r}\n    got    {reply.text!r}")
    figures = {"questions": len(items), "right": mean(right), "stopped": mean([reply.stopped for reply in replies])}
    if task == "json":
        figures["valid"] = mean([_is_json(reply.text) for reply in replies])
    return figures


def multi_turn(engine: Engine, args: argparse.Namespace) -> dict[str, Any]:
    """Chats of three turns or more: whether the last reply stops, is not empty, and writes no control token."""
    rng = random.Random(f"evaluate chats {args.seed}")
    prompts: list[str] = []
    while len(prompts) < args.questions:
        _, messages = chats.conversation(rng, True)
        asks = [place for place, message in enumerate(messages) if message["role"] == "user"]
        if len(asks) >= 3 and not any("tool_calls" in message for message in messages):
            prompts.append(render(messages[: asks[-1] + 1], open_answer=True))
    replies = engine.greedy(prompts, 2 * _LONGEST_REPLY)
    kept = [reply.stopped and bool(reply.text.strip()) and "<|" not in reply.raw for reply in replies]
    return {"chats": len(prompts), "kept": mean(kept)}


def told(engine: Engine, args: argparse.Namespace) -> dict[str, Any]:
    """Stories that go on from held-out beginnings, and what `prose` finds in them."""
    rng = random.Random(f"evaluate stories {args.seed}")
    words = prose.known_words(args.seed)
    beginnings: list[str] = []
    heroes: list[str] = []
    while len(beginnings) < args.stories:
        made = stories.story(rng, True)
        beginnings.append(" ".join(made.sentences[:2]).replace("\n ", "\n").rstrip())
        heroes.append(made.values["hero"])
    replies = engine.sample([BEGIN + text for text in beginnings], _STORY_TOKENS, temperature=0.7, seed=args.seed)
    found = [
        prose.judge(text, reply.text, hero, words)
        for text, reply, hero in zip(beginnings, replies, heroes, strict=True)
    ]
    for text, reply, judged in list(zip(beginnings, replies, found, strict=True))[: args.show]:
        print(f"--- {text}|{reply.text}\n    {judged}")
    return {"stories": len(found)} | {name: mean([judged[name] for judged in found]) for name in found[0]}


def perplexity(engine: Engine, task: str, args: argparse.Namespace) -> float:
    """Of a task's held-out documents, a token, behind the begin token."""
    rng = random.Random(f"perplexity {task} {args.seed}")
    texts = [mix.TASKS[task](rng, True) for _ in range(max(1, args.questions // 4))]
    total, count = engine.log_likelihood(texts)
    return math.exp(-total / count)


def agreement(args: argparse.Namespace) -> dict[str, int]:
    """Greedy tokens of both engines, in float32, over prompts of all tasks in turn."""
    made = [questions(task, make, args) for task, make in ASKED.items()]
    prompts = [prompt_of(item) for turn in zip(*made, strict=True) for item in turn]
    rng = random.Random(f"agreement {args.seed}")
    openings = [BEGIN + stories.story(rng, True).sentences[0] for _ in range(args.agree_on // 5)]
    prompts = [*openings, *prompts][: args.agree_on]
    answers: list[Sequence[Reply]] = []
    for name in ("aphrodite", "transformers"):
        with make_engine(name, args.folder, exact=True) as engine:
            answers.append(engine.greedy(prompts, 64))
    ours, theirs = answers
    equal = [a.ids == b.ids for a, b in zip(ours, theirs, strict=True)]
    for prompt, a, b, same in zip(prompts, ours, theirs, equal, strict=True):
        if not same:
            print(f"--- differ behind {prompt!r}\n    aphrodite    {a.ids}\n    transformers {b.ids}")
    return {"prompts": len(prompts), "equal": sum(equal), "tokens": sum(len(reply.ids) for reply in ours)}


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{figures['model']}, {figures['engine']}, held-out questions", "",
             f"{'task':<13}{'right':>8}{'stopped':>9}{'perplexity':>12}"]  # fmt: skip
    for task, row in figures["tasks"].items():
        extra = f"   valid JSON {row['valid']:.1%}" if "valid" in row else ""
        lines.append(f"{task:<13}{row['right']:>8.1%}{row['stopped']:>9.1%}{row['perplexity']:>12.3f}{extra}")
    story = figures["stories"]
    lines.append(f"{'stories':<13}{'':>8}{'':>9}{story['perplexity']:>12.3f}")
    lines += ["", f"multi-turn chats that keep to the template and stop: {figures['chats']['kept']:.1%}"]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in story.items() if name not in ("stories", "perplexity"))
    lines.append(f"stories at temperature 0.7, {_STORY_TOKENS} tokens: {shares}")
    return "\n".join(lines)


def mean(values: Sequence[bool]) -> float:
    """The share that is true."""
    return sum(values) / len(values)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
