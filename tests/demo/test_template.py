"""The demo models' chat template: what the Jinja file writes is what the models were trained on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from aphrodite.text.chat import ChatTemplate
from aphrodite.text.tokenizer import Tokenizer
from corpus import chats, tools
from corpus.template import JINJA, render

FOLDER = Path("examples/demo_model/tokenizer")


@pytest.fixture(scope="module")
def theirs(repository: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(repository / FOLDER)


def conversations() -> list[tuple[list[dict[str, Any]], list[Any]]]:
    rng = random.Random(3)
    made = [(chats.conversation(rng, True)[1], []) for _ in range(60)]
    for _ in range(30):
        asked = tools.exchange(rng, True)
        system = [{"role": "system", "content": "Be brief."}] if rng.random() < 0.5 else []
        made.append(([*system, *asked.messages()], list(asked.tools)))
    return made


def test_the_file_is_what_the_script_writes(repository: Path) -> None:
    assert (repository / FOLDER / "chat_template.jinja").read_text(encoding="utf-8") == JINJA


@pytest.mark.parametrize("open_answer", [False, True])
def test_transformers_renders_what_was_trained_on(theirs: Any, open_answer: bool) -> None:
    for messages, schemas in conversations():
        text = theirs.apply_chat_template(
            messages, tools=schemas or None, tokenize=False, add_generation_prompt=open_answer
        )
        assert text == render(messages, schemas, open_answer=open_answer)


def test_our_engine_renders_and_encodes_what_was_trained_on(repository: Path, theirs: Any) -> None:
    template = ChatTemplate.find(repository / FOLDER)
    assert template is not None
    tokenizer = Tokenizer.find(repository / FOLDER)
    assert tokenizer is not None
    for messages, schemas in conversations():
        expected = render(messages, schemas, open_answer=True)
        assert template.render(messages, tools=schemas or None) == expected
        ids = theirs(expected, add_special_tokens=False)["input_ids"]
        assert template.encode(messages, tokenizer, tools=schemas or None) == ids
