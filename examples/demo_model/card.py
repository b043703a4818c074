"""The model cards, from training.json and evaluation.json, so that no figure in them is typed by hand.

    python card.py

Writes README.md into each model's folder under src/aphrodite_demo. If a folder has a reproduction.json, which is the
training.json of a second run of the same script, the card compares both.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from package import MODELS, PACKAGE

Figures = Mapping[str, Any]

_HEAD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# {model}

<!-- Made by card.py from training.json and evaluation.json. Do not edit. -->

{what}

It is made to show an inference engine at work where nothing can be downloaded, and to test one on text that means
something. It knows nothing of the world.

## What it can do, and what it cannot

How well, the figures below say. It tells short stories in plain English, adds and subtracts numbers of two digits,
reads names and figures out of a sentence into JSON, sorts and counts short lists, reckons with dates and units, calls a
function that a chat describes, remembers what was said in a short chat, and answers questions about Aphrodite in the
words that it was taught.

It cannot do anything else. Its facts are those of a picture book; what it says about other things is made up, and it
does not know when it is wrong. Asked about Aphrodite in other words than those it was taught, it often answers another
question. The hero of a story whose name it has never seen may be "he" in one sentence and "she" in the next. It writes
English only, and has seen no text longer than {longest} tokens. Use it for nothing on which something depends.

## Figures

On questions whose number pairs, names and story frames were kept out of training (a fifth of all). A reply is right if
it has the right answer *and* stops by itself; {questions} questions of each task, answered greedily in float32 with
{engine}.

| task | right | stops | perplexity |
|---|---|---|---|
"""
_TAIL = """
{stories}

{chats}

{agreement}

Perplexity is that of a token of held-out documents. The same by hand: `python evaluate.py {path} --engine both` in
`examples/demo_model` of Aphrodite's repository.

## How it was made

All training text comes from seeded grammars in `examples/demo_model/corpus`, written for this; nothing was taken from
elsewhere. The tokenizer is a byte-level BPE of {vocab} entries, with digits one by one. The network has the shape of
Qwen3: {layers} layers of {hidden}, {heads} heads of {head_dim} over {kv_heads} for keys and values,
{parameters} parameters, stored in bfloat16.

Trained on {tokens} tokens ({unique} different ones) in {seconds} s on one {device}, with torch {torch}, seed {seed}.
The mean of the held-out losses of all tasks is {held_out} nats a token. From nothing to these files:

```
cd examples/demo_model && python make.py --out out && python package.py out
```

{reproduction}

![training loss](loss.svg)

## Licence

Apache-2.0, text and weights.
"""
_WHAT = {
    "demo": "A language model of {millions} million parameters, trained from nothing in minutes.",
    "demo-draft": (
        "A language model of {millions} million parameters, trained from nothing in minutes: a draft model for `demo`, "
        "with the same tokenizer, whose guesses the larger one checks."
    ),
}
_SHOWN = {
    "no_loop": "repeat no seven words",
    "on_topic": "name their hero",
    "sentences": "are made of whole sentences",
    "grammar": "have no doubled word and no wrong article",
    "spelling": "have no word that is none",
}


def main() -> None:
    """Write all cards."""
    for model in MODELS:
        folder = PACKAGE / model
        training, evaluation, config = (_read(folder / name) for name in _FILES)
        again = _read(folder / _AGAIN) if (folder / _AGAIN).is_file() else None
        (folder / "README.md").write_text(card(training, evaluation, config, again), encoding="utf-8")
        print(folder / "README.md")


_FILES = ("training.json", "evaluation.json", "config.json")
_AGAIN = "reproduction.json"
_CLOSE = 0.02


def card(training: Figures, evaluation: Figures, config: Figures, again: Figures | None = None) -> str:
    """The text of one card."""
    model = training["model"]
    head = _HEAD.format(
        model=model,
        what=_WHAT[model].format(millions=f"{training['parameters'] / 1e6:.1f}"),
        longest=config["max_position_embeddings"],
        questions=next(iter(evaluation["tasks"].values()))["questions"],
        engine=evaluation["engine"].replace("aphrodite", "Aphrodite").replace("transformers", "Transformers"),
    )
    rows = []
    for task, row in evaluation["tasks"].items():
        valid = f" ({row['valid']:.1%} valid JSON)" if "valid" in row else ""
        rows.append(f"| {task} | {row['right']:.1%}{valid} | {row['stopped']:.1%} | {row['perplexity']:.2f} |")
    rows.append(f"| stories | | | {evaluation['stories']['perplexity']:.2f} |")
    tail = _TAIL.format(
        stories=_stories(evaluation["stories"]),
        chats=_chats(evaluation["chats"]),
        agreement=_agreement(evaluation.get("agreement")),
        path=f"src/aphrodite_demo/{model}",
        vocab=f"{config['vocab_size']:,}",
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        head_dim=config["head_dim"],
        kv_heads=config["num_key_value_heads"],
        parameters=f"{training['parameters']:,}",
        tokens=f"{training['tokens'] / 1e6:.0f} million",
        unique=f"{training['unique_tokens'] / 1e6:.0f} million",
        seconds=f"{training['seconds']:.0f}",
        device=training["device"],
        torch=training["torch"],
        seed=training["seed"],
        held_out=f"{training['held_out_mean']:.4f}",
        reproduction=_reproduction(training, again),
    )
    return _filled(head + "\n".join(rows) + "\n" + tail)


def _stories(figures: Figures) -> str:
    shares = ", ".join(f"{figures[name]:.0%} {what}" for name, what in _SHOWN.items())
    number = figures["stories"]
    return f"Of {number} stories that go on from a held-out beginning, for 100 tokens at temperature 0.7, {shares}."


def _chats(figures: Figures) -> str:
    return f"Of {figures['chats']} chats of three turns or more, {figures['kept']:.1%} keep to the template and stop."


def _agreement(figures: Figures | None) -> str:
    if figures is None:
        return "Aphrodite and Transformers have not been compared on it."
    return (
        f"Aphrodite and Transformers give the same greedy tokens in float32 for {figures['equal']} of "
        f"{figures['prompts']} held-out prompts ({figures['tokens']:,} tokens)."
    )


def _reproduction(first: Figures, again: Figures | None) -> str:
    if again is None:
        return "It has been trained once."
    mean = again["held_out_mean"] / first["held_out_mean"] - 1
    losses = {task: again["held_out_loss"][task] / loss - 1 for task, loss in first["held_out_loss"].items()}
    apart = ", ".join(f"{task} {change:+.1%}" for task, change in losses.items() if abs(change) > _CLOSE)
    return (
        f"Trained a second time by the same script on one {again['device']}, the mean held-out loss came out "
        f"{mean:+.1%} ({again['held_out_mean']:.4f}); each task's loss came out within {_CLOSE:.0%} of the first"
        + (f", but for {apart}." if apart else ".")
    )


def _filled(text: str) -> str:
    """Paragraphs with lines of even length; what is no paragraph as it is."""
    blocks = [
        block if block[0] in "-#|`!<" else textwrap.fill(" ".join(block.split()), 120, break_on_hyphens=False)
        for block in text.strip().split("\n\n")
    ]
    return "\n\n".join(blocks) + "\n"


def _read(path: Path) -> Figures:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    main()
