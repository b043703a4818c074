"""Where Transformers takes a class's pipeline and not tokenizer.json's, so do we; the file's where that cannot fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto import tokenization_auto

from aphrodite.text import classes
from aphrodite.text.chat import ChatTemplate
from aphrodite.text.detokenizer import Detokenizer
from aphrodite.text.tokenizer import Tokenizer
from tests.unit.text.kinds import KINDS, save, texts

TEXTS = [
    *texts(250, seed=7), " Hello", "  two", "x </s> y", "a<|turn|>b", "<s> the", "2024-11-05", "e\u0301 é ﬁ", "हिन्दी",
    "\n the", "▁the", "a\n\n\nb   c", "It's they'RE",
]  # fmt: skip
PIECES, BYTES = ("llama2", "gemma"), ("byte_level",)
FITTING: list[tuple[str, str, dict[str, Any]]] = [
    *((kind, "LlamaTokenizer", {}) for kind in PIECES),
    ("llama2", "LlamaTokenizerFast", {"legacy": True}),
    ("llama2", "LlamaTokenizer", {"legacy": False, "add_prefix_space": False}),
    ("llama2", "LlamaTokenizer", {"legacy": None, "add_prefix_space": None, "add_bos_token": False}),
    *((kind, "CodeLlamaTokenizer", {}) for kind in PIECES),
    ("llama2", "CodeLlamaTokenizer", {"add_prefix_space": False, "suffix_token": None}),
    *((kind, "GemmaTokenizerFast", {}) for kind in PIECES),
    *(
        ("byte_level", name, options)
        for name in ("GPT2Tokenizer", "GPTNeoXTokenizerFast", "Qwen2Tokenizer", "Qwen3_5Tokenizer", "CohereTokenizer")
        for options in ({}, {"add_prefix_space": True})
    ),
]
LISTED = {
    str(place): {"content": text, "lstrip": text == "</s>", "normalized": False, "rstrip": False,
                 "single_word": False, "special": special}
    for place, (text, special) in enumerate([("<unk>", True), ("<s>", True), ("</s>", True), ("<|turn|>", False)])
}  # fmt: skip


def check_same(folder: Path) -> None:
    """Ids both ways, in parts too, and what a template is given."""
    ours, theirs = Tokenizer.find(folder), AutoTokenizer.from_pretrained(str(folder))
    assert ours is not None
    expected = theirs(TEXTS).input_ids
    assert [ours.encode(text) for text in TEXTS] == expected
    assert [ours.encode_bare(text) for text in TEXTS] == theirs(TEXTS, add_special_tokens=False).input_ids
    for ids in expected:
        for skip in (True, False):
            detokenizer = Detokenizer(ours, skip_special_tokens=skip)
            assert detokenizer.append(ids) + detokenizer.finish() == theirs.decode(ids, skip_special_tokens=skip)
    source = "{{ bos_token }},{{ eos_token }},{{ unk_token }},{{ pad_token }},{{ cls_token }};"
    template = ChatTemplate.find(folder, source)
    assert template is not None
    user = [{"role": "user", "content": "x"}]
    assert template.render(user) == theirs.apply_chat_template(user, chat_template=source, tokenize=False)


def folder_of(path: Path, kind: str, config: dict[str, Any], model_type: str | None = None) -> Path:
    folder = save(KINDS[kind](), path, config)
    if model_type is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


@pytest.mark.parametrize(("kind", "name", "options"), FITTING)
@pytest.mark.parametrize("listed", [True, False])
def test_a_class_takes_the_place_that_transformers_gives_it(
    kind: str, name: str, options: dict[str, Any], listed: bool, tmp_path: Path
) -> None:
    added = {"added_tokens_decoder": LISTED} if listed else {}
    check_same(folder_of(tmp_path, kind, {"tokenizer_class": name, **options, **added}))


@pytest.mark.parametrize(
    ("kind", "model_type", "config"),
    [
        ("byte_level", "llama", {"tokenizer_class": "LlamaTokenizer"}),
        ("byte_level", "qwen2", {}),
        ("byte_level", "qwen2", {"tokenizer_class": "LlamaTokenizerFast"}),
        ("byte_level", "qwen3", {}),
        ("byte_level", "qwen3", {"tokenizer_class": None}),
        ("byte_level", "starcoder2", {"tokenizer_class": None}),
        ("byte_level", "granite", {"tokenizer_class": "GPT2Tokenizer"}),
        ("llama2", "llama", {"tokenizer_class": "LlamaTokenizer"}),
        ("llama2", "llama", {"tokenizer_class": None}),
        ("llama2", "mistral", {"tokenizer_class": "LlamaTokenizer"}),
        ("llama2", "phi3", {"tokenizer_class": "LlamaTokenizer", "legacy": False}),
        ("llama2", "mixtral", {"tokenizer_class": None}),
        ("gemma", "gemma2", {"tokenizer_class": None}),
        ("gemma", "gemma3_text", {"tokenizer_class": "LlamaTokenizer"}),
    ],
)
def test_the_model_type_has_its_say_as_in_transformers(
    kind: str, model_type: str, config: dict[str, Any], tmp_path: Path
) -> None:
    check_same(folder_of(tmp_path, kind, config, model_type))


@pytest.mark.parametrize(
    ("kind", "name", "model_type"),
    [("llama2", "PreTrainedTokenizerFast", "qwen2"), ("byte_level", "GemmaTokenizer", "gemma"),
     ("word_piece", "LlamaTokenizer", "llama"), ("unigram", "GPT2Tokenizer", "gpt2")],
)  # fmt: skip
def test_a_file_of_another_kind_than_its_class_is_followed(
    kind: str, name: str, model_type: str, tmp_path: Path
) -> None:
    """Transformers puts pipeline and vocabulary together all the same, and then most texts are unknown tokens."""
    folder = folder_of(tmp_path, kind, {"tokenizer_class": name}, model_type)
    ours, filed = Tokenizer.find(folder), PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert ours is not None
    assert [ours.encode(text) for text in TEXTS] == filed(TEXTS).input_ids


def test_the_table_of_model_types_is_that_of_transformers() -> None:
    theirs = tokenization_auto.TOKENIZER_MAPPING_NAMES
    ours = classes._REGISTERED
    assert {kind: (theirs[kind] or "").removesuffix("Fast") for kind in ours} == ours
    better = tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    assert {kind for kind in ours if kind in better and ours[kind] != "TokenizersBackend"} == classes._KNOWN_BETTER
