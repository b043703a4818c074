"""Prompts are tokenised as Transformers' fast tokenizers do, with what stands beside tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from aphrodite.errors import ModelError
from aphrodite.text.detokenizer import Detokenizer
from aphrodite.text.tokenizer import Tokenizer
from tests.unit.text.kinds import BOS, EOS, KINDS, byte_level, save, texts


def both(folder: Path) -> tuple[Tokenizer, Any]:
    ours = Tokenizer.find(folder)
    assert ours is not None
    return ours, AutoTokenizer.from_pretrained(str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_tokenised_as_transformers_does(kind: str, folders: dict[str, Path]) -> None:
    ours, theirs = both(folders[kind])
    prompts = texts(2000, seed=5)
    expected = theirs(prompts).input_ids
    assert [ours.encode(text) for text in prompts] == expected
    bare = theirs(prompts, add_special_tokens=False).input_ids
    assert [ours.encode_bare(text) for text in prompts] == bare
    for ids in expected:
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


ADDED = {
    "content": "<|new|>",
    "lstrip": False,
    "normalized": False,
    "rstrip": True,
    "single_word": False,
    "special": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "add_bos_token off": {"add_bos_token": False},
    "add_eos_token on": {"add_eos_token": True},
    "both, for a class of Llama": {
        "add_bos_token": False, "add_eos_token": True, "tokenizer_class": "LlamaTokenizerFast",
    },
    "an added token": {"added_tokens_decoder": {"900": ADDED}},
    "two added tokens": {
        "added_tokens_decoder": {"901": {**ADDED, "content": "<b>"}, "900": {**ADDED, "content": "<a>"}},
    },
    "one that is not special": {"added_tokens_decoder": {"900": {**ADDED, "special": False, "content": "schedules"}}},
    "one that is there, otherwise": {"added_tokens_decoder": {"3": {**ADDED, "content": "<|turn|>", "lstrip": True}}},
    "one that is not special, but named": {
        "added_tokens_decoder": {"900": {**ADDED, "special": False}}, "eos_token": "<|new|>",
    },
    "a name for what is no token": {"eos_token": "<|new|>", "pad_token": "<|pad|>"},
    "a name for a word of the vocabulary": {"pad_token": "the"},
    "an extra token": {"additional_special_tokens": ["<|new|>", "then"]},
    "a token that a model names": {"image_token": "<|new|>"},
    "special tokens split": {"split_special_tokens": True},
}  # fmt: skip
CONFIGS |= {
    "a name with flags": {
        "pad_token": {"__type": "AddedToken", "content": "<|pad|>", "lstrip": True, "normalized": False, "rstrip": True,
                      "single_word": False, "special": True},
    },
    "the same token by two names": {"pad_token": "<|new|>", "eos_token": "<|new|>"},
}  # fmt: skip
SAMPLES = ["the <|new|> step", "a<|new|>  b <|pad|>x", "then schedules <a><b> <b>", " <|turn|> the </s>x", "<s>", ""]


@pytest.mark.parametrize("name", CONFIGS)
def test_tokenizer_config_changes_what_it_changes_in_transformers(name: str, tmp_path: Path) -> None:
    ours, theirs = both(save(byte_level(), tmp_path, CONFIGS[name]))
    assert [ours.encode(text) for text in SAMPLES] == theirs(SAMPLES).input_ids
    for text in SAMPLES:
        ids = ours.encode(text)
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


SPACED = [
    "it is n't so , is it ? No ! He 's , she 've ' re . .", "a ' b' ' c ' 's",
    " . . .", "they 're  ?", "x 'm 's 've 're",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "config",
    [
        {"clean_up_tokenization_spaces": True},
        {"clean_up_tokenization_spaces": False},
        {
            "clean_up_tokenization_spaces": True,
            "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
        },
    ],
    ids=["on", "off", "forced"],
)
def test_decoded_text_is_cleaned_up_as_transformers_does_at_once_and_in_parts(
    kind: str, config: dict[str, Any], tmp_path: Path
) -> None:
    ours, theirs = both(save(KINDS[kind](), tmp_path, config))
    for ids in theirs([*SPACED, *texts(300, seed=8)]).input_ids:
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip)
            detokenizer = Detokenizer(ours, skip_special_tokens=skip)
            parts = [*(detokenizer.append([token]) for token in ids), detokenizer.finish()]
            assert "".join(parts) == ours.decode(ids, skip_special_tokens=skip) == expected


def test_bos_and_eos_come_from_the_post_processor_alone(tmp_path: Path) -> None:
    tokenizer = byte_level()
    ids = {token: tokenizer.token_to_id(token) for token in (BOS, EOS)}
    for single, before, after in ((f"{BOS} $A", [ids[BOS]], []), (f"$A {EOS}", [], [ids[EOS]]), ("$A", [], [])):
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=list(ids.items()))
        ours, theirs = both(save(tokenizer, tmp_path, {"add_bos_token": True, "add_eos_token": True}))
        assert ours.encode("the") == theirs("the").input_ids == [*before, *ours.encode_bare("the"), *after]


def test_files_of_older_checkpoints_are_read(tmp_path: Path) -> None:
    folder = save(byte_level(), tmp_path)
    named = {"pad_token": {"content": "<|pad|>", "lstrip": True, "rstrip": True}, "eos_token": "<a>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    (folder / "added_tokens.json").write_text(json.dumps({"<|new|>": 900, "<b>": 901}))
    ours, theirs = both(folder)
    assert [ours.encode(text) for text in SAMPLES] == theirs(SAMPLES).input_ids


def test_truncation_and_padding_in_the_file_have_no_effect(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    ours, theirs = both(save(tokenizer, tmp_path))
    assert ours.encode("the " * 40) == theirs("the " * 40).input_ids and len(ours.encode("the " * 40)) > 30


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": []}, "added_tokens_decoder must be an object"),
        ({"added_tokens_decoder": {"x": ADDED}}, "added_tokens_decoder must be an object with ids as keys"),
        ({"added_tokens_decoder": {"1": "x"}}, r"added_tokens_decoder\[1\] must be an object"),
        ({"added_tokens_decoder": {"1": {"content": 2}}}, "must be a text or an object with content"),
        ({"added_tokens_decoder": {"1": {**ADDED, "lstrip": 1}}}, "flags must be true or false"),
        ({"bos_token": 3}, "bos_token must be a text or an object with content, got 3"),
        ({"additional_special_tokens": [1]}, "extra_special_tokens must be a list of texts"),
    ],
)
def test_a_wrong_tokenizer_config_is_refused_by_file_and_field(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Tokenizer.find(save(byte_level(), tmp_path, config))
    assert "tokenizer_config.json" in str(caught.value)
