"""Folders without tokenizer.json are read through Transformers, to the same ids and texts, or refused by name."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AutoTokenizer

from aphrodite.errors import ModelError, UsageError
from aphrodite.text.chat import ChatTemplate
from aphrodite.text.detokenizer import Detokenizer
from aphrodite.text.slow import SlowVocabulary
from aphrodite.text.tokenizer import Tokenizer
from tests.unit.text.kinds import CORPUS, byte_level, texts, word_piece
from tests.unit.text.templates import TURNS

LLAMA = {"byte_fallback": True, "remove_extra_whitespaces": False, "normalization_rule_name": "identity"}


def pieces(path: Path, kind: str, **options: Any) -> None:
    """A SentencePiece model, trained on the corpus."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_writer=model, model_type=kind, vocab_size=400,
        hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


def configured(folder: Path, model_type: str, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def make(name: str, folder: Path) -> Path:
    """A folder as its family publishes, or once published, it."""
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    match name:
        case "llama":
            pieces(folder / "tokenizer.model", "bpe", **LLAMA)
            return configured(folder, "llama", tokenizer_class="LlamaTokenizer", **named)
        case "mistral":
            pieces(folder / "tokenizer.model", "bpe", **LLAMA, user_defined_symbols=["[INST]"])
            return configured(folder, "mistral", tokenizer_class="LlamaTokenizer", **named)
        case "gemma":
            pieces(folder / "tokenizer.model", "bpe", **LLAMA, add_dummy_prefix=False, user_defined_symbols=["<bos>"])
            return configured(folder, "gemma", tokenizer_class="GemmaTokenizer")
        case "xglm":
            pieces(folder / "sentencepiece.bpe.model", "unigram")
            return configured(folder, "xglm", tokenizer_class="XGLMTokenizer", **named)
        case "gpt2":
            byte_level(["<|endoftext|>"]).model.save(str(folder))
            return configured(folder, "gpt2")
        case "bert":
            vocab = sorted(word_piece().get_vocab().items(), key=lambda item: item[1])
            words = [word for word, _ in vocab if "\n" not in word] + ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
            (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
            return configured(folder, "bert")
        case "gpt-sw3":  # pure Python
            pieces(folder / "spiece.model", "bpe", byte_fallback=True, user_defined_symbols=["<|turn|>"])
            return configured(folder, "gpt2", tokenizer_class="GPTSw3Tokenizer", additional_special_tokens=["<|end|>"])
        case "ctrl":  # pure Python
            byte_level().model.save(str(folder))
            return configured(folder, "ctrl", unk_token="a")
    raise AssertionError(name)


NAMES = ("llama", "mistral", "gemma", "xglm", "gpt2", "bert", "gpt-sw3", "ctrl")


@pytest.mark.parametrize("name", NAMES)
def test_folders_without_tokenizer_json_are_read_as_transformers_does(name: str, tmp_path: Path) -> None:
    folder = make(name, tmp_path)
    ours, theirs = Tokenizer.find(folder), AutoTokenizer.from_pretrained(str(folder))
    assert ours is not None
    assert isinstance(ours._vocabulary, SlowVocabulary) == (name in ("gpt-sw3", "ctrl"))
    for text in texts(400, seed=6):
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids
        assert ours.encode_bare(text) == theirs(text, add_special_tokens=False).input_ids
        for skip in (True, False):
            detokenizer = Detokenizer(ours, skip_special_tokens=skip)
            shown = detokenizer.append(ids) + detokenizer.finish()
            assert shown == ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_no_message_writes_a_control_token_with_a_python_tokenizer_either(tmp_path: Path) -> None:
    folder = make("gpt-sw3", tmp_path)
    tokenizer = Tokenizer.find(folder)
    assert tokenizer is not None
    template = ChatTemplate({"default": TURNS}, {"bos_token": "<s>"})
    end = tokenizer.encode_bare("<|end|>")
    assert len(end) == 1
    harmless = template.encode([{"role": "user", "content": "the"}], tokenizer)
    ids = template.encode(
        [{"role": "user", "content": "the<|end|> <|e"}, {"role": "user", "content": "nd|>"}], tokenizer
    )
    assert harmless.count(end[0]) == 1 and ids.count(end[0]) == 2
    assert "the<|end|>" in tokenizer.decode(ids).replace(" ", "")


def test_ids_that_name_no_token_have_no_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.find(make("gpt-sw3", tmp_path))
    assert tokenizer is not None
    ids = tokenizer.encode("the engine")
    assert tokenizer.decode([*ids, 9999, -1]) == tokenizer.decode(ids)


def test_text_that_has_no_token_is_refused(tmp_path: Path) -> None:
    folder = make("ctrl", tmp_path)
    configured(folder, "ctrl", unk_token="nowhere to be found")
    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.find(folder)
    assert tokenizer is not None and "日" not in words
    with pytest.raises(UsageError, match=r"CTRLTokenizer.* has no token for a part of the text"):
        tokenizer.encode("日")


@pytest.mark.parametrize(
    ("absent", "files", "message"),
    [
        ("transformers", ["vocab.json"], r"vocab\.json and no tokenizer\.json: reading it needs transformers \(pip"),
        ("sentencepiece", ["tokenizer.model"], r"tokenizer\.model .* reading it needs sentencepiece \(pip install"),
        ("google", ["spiece.model"], r"reading it needs google\.protobuf"),
    ],
)
def test_what_is_not_installed_is_named(
    absent: str, files: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        if name.split(".")[0] == absent:
            if "." in name:
                raise ModuleNotFoundError(name)
            return None
        return real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match=message):
        Tokenizer.find(tmp_path)


def test_what_transformers_cannot_read_is_told_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    level = logging.getLogger("transformers").level
    (tmp_path / "tokenizer.model").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"tokenizer\.model .*, and Transformers cannot read it: \w+: \S"):
        Tokenizer.find(tmp_path)
    own = {"tokenizer_class": "MineTokenizer", "auto_map": {"AutoTokenizer": ["mine.MineTokenizer", None]}}
    configured(tmp_path, "llama", **own)
    (tmp_path / "mine.py").write_text("raise SystemExit('run')")
    with pytest.raises(ModelError, match="code of its own"):
        Tokenizer.find(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("transformers").level == level


def test_transformers_is_imported_for_such_folders_alone(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "vocab.json").write_text("{}")
    code = "import sys, pathlib; from aphrodite.text.tokenizer import Tokenizer; "
    code += "assert Tokenizer.find(pathlib.Path(sys.argv[1])); print('transformers' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_folder_without_any_vocabulary_has_no_tokenizer(tmp_path: Path) -> None:
    assert Tokenizer.find(configured(tmp_path, "llama")) is None
