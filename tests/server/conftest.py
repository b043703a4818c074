"""Tokenizers and servers for the tests of HTTP."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.checkpoints import Checkpoints, train_tokenizer
from tests.support.fixtures import checkpoints, device, one_thread

__all__ = ["checkpoints", "device", "one_thread"]

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Clients give up after a minute, not after httpx's five seconds, which a busy machine may take for anything."""
    usual = inspect.signature(httpx.get).parameters["timeout"].default
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "read", "write", "pool"):
            patch.setattr(usual, name, 60.0)
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and a chat template, and no weights."""
    found = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer().save(str(found / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (found / "tokenizer_config.json").write_text(json.dumps(config))
    return found


@pytest.fixture(scope="session")
def model(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a chat template."""
    found = checkpoints.copy(checkpoints.llama(), tmp_path_factory.mktemp("served") / "model")
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (found / "tokenizer_config.json").write_text(json.dumps(config))
    return found
