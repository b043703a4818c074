"""Small tokenizers of the kinds that checkpoints have, trained here on a text and saved as checkpoints are."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = (
    "The engine schedules a step, executes it and updates its sequences. It isn't done, they're not; I do not know!",
    "A block holds sixteen tokens; a sequence has as many blocks as it needs . Is that so ? Yes , 'it' is .",
    "Grüße aus der Küche: für Äpfel, Öl und Brötchen zahlen wir 12 € und 50 ct.",
    "the the the there then than that this these those other another think thinking thought",
    "def f(x):\n    if x:\n\treturn [1, 2, 3]\n\n\n    return {'a': 'b'}\n",
    "система user assistant <tag> </tag> [INST] 日本語の文",
)
BOS, EOS, TURN, END = "<s>", "</s>", "<|turn|>", "<|end|>"
SPECIAL = ["<unk>", BOS, EOS, TURN, END]
PLAIN_ADDED = ["<think>", "</think>", "  \n"]  # added tokens that are not special
NASTY = (
    "", " ", "  ", "\n", "\t\r\n", "\u00a0", "\u200d", "\ufeff", "\ufffd", "\x00", "a\x00b", "\u0301", "e\u0301", "ﬁ",
    "\U0001f469\u200d\U0001f469\u200d\U0001f466", "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f44d\U0001f3fd",  # emoji
    "日本", "العربية", "हिन्दी", "한국", "▁", "▁▁x", "##a", "Ġ", "</w>", "<0x41>", "<0xZZ>", "don't", "do not ",
    " .", " ,", " ' ", "n't", "  a  ", "<think>", "</think>", "  \n", "<s", "s>", "0123456789", "A" * 40, "Ⅳ",
    "\U0010ffff", "ß", "İ",
)  # fmt: skip


def byte_level(special: list[str] = SPECIAL) -> Tokenizer:
    """GPT-2's and Llama 3's kind."""
    tokenizer = Tokenizer(models.BPE())
    split = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False, min_frequency=1
        ),
    )
    return _finished(tokenizer)


def _sentencepiece_bpe(*, prefix: bool) -> Tokenizer:
    """Byte tokens, then pieces: Llama 2's kind with a space before the text, Gemma's without."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    alphabet = sorted({char for text in CORPUS for char in text if char.isascii()} | {"▁"})
    trained.train_from_iterator(
        [text.replace(" ", "▁") for text in CORPUS],
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, limit_alphabet=60, show_progress=False
        ),
    )
    model = json.loads(trained.to_str())["model"]
    pieces = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1]) if token not in SPECIAL]
    every = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [tuple(pair) for pair in model["merges"]]
    vocab = {token: place for place, token in enumerate(every)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    stripped = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *stripped]
    )
    return _finished(tokenizer)


def word_piece() -> Tokenizer:
    """BERT's kind: decoding cleans up."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _finished(tokenizer)


def unigram() -> Tokenizer:
    """T5's kind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _finished(tokenizer)


KINDS: Mapping[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "llama2": lambda: _sentencepiece_bpe(prefix=True),
    "gemma": lambda: _sentencepiece_bpe(prefix=False),
    "word_piece": word_piece,
    "unigram": unigram,
}


def _finished(tokenizer: Tokenizer) -> Tokenizer:
    """With the added tokens, and a post-processor that begins with BOS."""
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in PLAIN_ADDED])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, config: Mapping[str, Any] | None = None) -> Path:
    """A checkpoint's folder with this tokenizer, which Transformers loads as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    default = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(default | dict(config or {})), encoding="utf-8")
    return folder


def texts(count: int, seed: int) -> list[str]:
    """Random ones: words, nasty ones, and any characters."""
    draw = random.Random(seed)
    words = [*" ".join(CORPUS).split(" "), *NASTY, *SPECIAL]

    def one() -> str:
        parts = [
            draw.choice(words)
            if draw.random() < 0.8
            else chr(draw.choice([*range(0x20, 0x2FF), *range(0x1F300, 0x1F700)]))
            for _ in range(draw.randrange(12))
        ]
        return draw.choice(["", " ", " "]).join(parts)

    return [*NASTY, *(one() for _ in range(count - len(NASTY)))]
