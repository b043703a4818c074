"""The tokenizer of the demo models: byte-level BPE of 4,096 entries, digits one by one, with a chat template.

    python make_tokenizer.py --out tokenizer

Writes tokenizer.json, tokenizer_config.json and chat_template.jinja. Seeded: the same text, the same tokenizer.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from corpus import mix, names
from corpus.template import ADDED, BEGIN, END, END_OF_TEXT, JINJA, PAD, SPECIAL

VOCAB_SIZE = 4096
LONGEST = 1024  # tokens that the models are trained on at a time
# A capital at the front of a word, with the space before it; the rest of that word, or a small word with its space;
# each digit alone, never with its space; runs of other signs; white space. Capitals stand alone so that what is behind
# one has the same tokens wherever the word is: in a sentence, behind a quotation mark, in an address.
_PIECES = r" ?\p{Lu}(?=\p{L})| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# No name becomes a token, so that those of training are spelled in parts, as those that are held out are.
_NAME = re.compile(rf"\b(?:{'|'.join(sorted({*names.GIRLS, *names.BOYS, *names.SURNAMES, *names.CITIES}))})\b|\S+@\S+")


def main() -> None:
    """Train it and write its files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tokenizer"))
    parser.add_argument("--documents", type=int, default=120_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_files(train(args.documents, args.seed), args.out)
    print(f"{args.out}: {VOCAB_SIZE} entries")


def train(documents: int, seed: int) -> Tokenizer:
    """A tokenizer of training text without its names."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(ADDED),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(documents, seed), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in ADDED])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, tokenizer.get_vocab_size()
    return tokenizer


def _texts(documents: int, seed: int) -> Iterator[str]:
    rng = random.Random(f"tokenizer {seed}")
    for _ in range(documents):
        text = mix.document(rng, held_out=False)
        for token in (*SPECIAL, *ADDED):
            text = text.replace(token, "\n")
        yield _NAME.sub("\n", text)


def write_files(tokenizer: Tokenizer, folder: Path) -> None:
    """What a Hugging Face folder has of a tokenizer."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": None,
        "additional_special_tokens": [END_OF_TEXT],
        "model_max_length": LONGEST,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(JINJA, encoding="utf-8")


if __name__ == "__main__":
    main()
