"""Tokenizer classes that bring a pipeline of their own, which Transformers 5 puts in place of tokenizer.json's.

    tokenizer.json   vocabulary, merges, post-processor, and added tokens where tokenizer_config.json lists none
    the class        normaliser, pre-tokeniser, decoder, the options of BPE, special tokens that nobody names

Which class that is follows from what the folder says: the class in tokenizer_config.json (or config.json), and the
model type, for some of which Transformers knows better. A class is taken only where its kind is that of the file: a
pipeline of bytes over a vocabulary of SentencePiece pieces encodes nothing, so there the file is followed.

Source: transformers 5.24, models/auto/tokenization_auto.py and models/*/tokenization_*.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, processors

_MERGES = re.compile(rb'"merges"\s*:\s*\[')
_Json = dict[str, Any]
_Pipeline = Callable[[Mapping[str, Any]], tuple[_Json | None, _Json, _Json]]


@dataclass(frozen=True)
class TokenizerClass:
    """What a class puts in place of the file's.

    byte_level     whether its vocabulary spells bytes
    model          options of BPE; those that are left out are off
    pipeline       normaliser, pre-tokeniser and decoder, as tokenizer.json spells them, by tokenizer_config.json
    names          special tokens that the config need not name
    knows_unknown  whether BPE is told of the unknown token
    around         what is put around a prompt: what the file says, nothing, or BOS before it
    again          how it adds its special tokens once more, which settles their flags
    """

    byte_level: bool
    model: Mapping[str, Any]
    pipeline: _Pipeline
    names: Mapping[str, str]
    knows_unknown: bool = False
    around: Literal["file", "nothing", "bos"] = "file"
    again: Literal["no", "plainly", "as named"] = "no"

    def fits(self, file: bytes) -> bool:
        """Whether a tokenizer.json is of this class's kind."""
        return _MERGES.search(file) is not None and self.byte_level == (b'"ByteLevel"' in file)

    def rebuilt(self, data: Mapping[str, Any], config: Mapping[str, Any], unknown: str | None) -> _Json:
        """A tokenizer.json with the class's parts in place of its own, and no added tokens yet."""
        words = {part: data["model"][part] for part in ("vocab", "merges")}
        model = {**_BPE, **self.model, "unk_token": unknown if self.knows_unknown else None, **words}
        normalizer, pre_tokenizer, decoder = self.pipeline(config)
        parts = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder}
        processor = data.get("post_processor") if self.around == "file" else None
        return {**data, **parts, "model": model, "post_processor": processor, "added_tokens": []}

    def finish(self, library: Tokenizer, special: Sequence[AddedToken], bos: str | None) -> None:
        """What the class does once all tokens are there."""
        if self.again == "as named":
            library.add_special_tokens(list(special))
        elif self.again == "plainly":
            library.add_tokens([AddedToken(token.content, special=True) for token in special])
        if self.around == "bos" and bos is not None:
            ids = [(bos, library.token_to_id(bos))]
            library.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)


def class_of(config: Mapping[str, Any], model_config: Mapping[str, Any]) -> TokenizerClass | None:
    """The class of a folder's tokenizer, by tokenizer_config.json and config.json; None if it is none of these."""
    return _CLASSES.get(_name(config, model_config) or "")


def _name(config: Mapping[str, Any], model_config: Mapping[str, Any]) -> str | None:
    given = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    kind = model_config.get("model_type")
    registered = _REGISTERED.get(kind) if isinstance(kind, str) else None
    if not isinstance(given, str):
        return registered
    if registered is not None and "auto_map" not in config and (registered == _AS_FILED or kind in _KNOWN_BETTER):
        return registered
    return given.removesuffix("Fast")


# ---- parts, as tokenizer.json spells them ----------------------------------------------------------------------------

_BPE = {
    "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
    "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
}  # fmt: skip
_PIECES = {"fuse_unk": True, "byte_fallback": True}
_BYTES = {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
_NFC = {"type": "NFC"}
_UNMARK = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?{letters}+|\p{N}| ?[^\s{classes}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _sequence(kind: str, parts: Sequence[_Json]) -> _Json:
    return {"type": "Sequence", kind: list(parts)}


def _byte_level(*, prefix: bool, regex: bool = True) -> _Json:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def _adds_prefix(config: Mapping[str, Any], default: bool) -> bool:
    given = config.get("add_prefix_space")
    return given if isinstance(given, bool) else default


def _metaspace(scheme: str) -> _Json:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}


def _pieces_decoder(*, strips: bool) -> _Json:
    stripped = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if strips else []
    return _sequence("decoders", [_UNMARK, {"type": "ByteFallback"}, {"type": "Fuse"}, *stripped])


def _llama(config: Mapping[str, Any]) -> tuple[_Json | None, _Json, _Json]:
    prefix = _adds_prefix(config, default=True)
    scheme = "always" if config.get("legacy") else "first"
    return None, _metaspace(scheme if prefix else "never"), _pieces_decoder(strips=prefix)


def _code_llama(config: Mapping[str, Any]) -> tuple[_Json | None, _Json, _Json]:
    scheme = "first" if _adds_prefix(config, default=True) else "never"
    return None, _metaspace(scheme), _pieces_decoder(strips=True)


def _gemma(config: Mapping[str, Any]) -> tuple[_Json | None, _Json, _Json]:
    marks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return marks, split, _pieces_decoder(strips=False)


def _gpt2(config: Mapping[str, Any]) -> tuple[_Json | None, _Json, _Json]:
    return None, _byte_level(prefix=_adds_prefix(config, default=False)), _byte_level(prefix=True)


def _gpt_neox(config: Mapping[str, Any]) -> tuple[_Json | None, _Json, _Json]:
    return (_NFC, *_gpt2(config)[1:])


def _cohere(config: Mapping[str, Any]) -> tuple[_Json | None, _Json, _Json]:
    bytes_of = _byte_level(prefix=_adds_prefix(config, default=False))
    return _NFC, _sequence("pretokenizers", [{"type": "Digits", "individual_digits": True}, bytes_of]), bytes_of


def _qwen(letters: str, classes: str) -> _Pipeline:
    pattern = _WORDS.replace("{letters}", letters).replace("{classes}", classes)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}

    def pipeline(config: Mapping[str, Any]) -> tuple[_Json | None, _Json, _Json]:
        bytes_of = _byte_level(prefix=_adds_prefix(config, default=False), regex=False)
        return _NFC, _sequence("pretokenizers", [split, bytes_of]), _byte_level(prefix=True)

    return pipeline


# ---- classes, and the model types whose tokenizers they are ---------------------------------------------------------

_AS_FILED = "TokenizersBackend"
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_END = "<|endoftext|>"
_QWEN = {"eos_token": _END, "unk_token": _END, "pad_token": _END}
_CLASSES: Mapping[str, TokenizerClass] = {
    "LlamaTokenizer": TokenizerClass(False, _PIECES, _llama, _LLAMA),
    "CodeLlamaTokenizer": TokenizerClass(
        False, _PIECES, _code_llama,
        {**_LLAMA, "prefix_token": "▁<PRE>", "middle_token": "▁<MID>", "suffix_token": "▁<SUF>", "eot_token": "▁<EOT>",
         "fill_token": "<FILL_ME>"},
        knows_unknown=True, around="bos",
    ),
    "GemmaTokenizer": TokenizerClass(
        False, _PIECES, _gemma,
        {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>",
         "mask_token": "<mask>"},
        knows_unknown=True,
    ),
    "GPT2Tokenizer": TokenizerClass(
        True, _BYTES, _gpt2, {"bos_token": _END, "eos_token": _END, "unk_token": _END}
    ),
    "GPTNeoXTokenizer": TokenizerClass(
        True, _BYTES, _gpt_neox,
        {"bos_token": _END, "eos_token": _END, "unk_token": _END, "pad_token": "<|padding|>"}, around="nothing",
    ),
    "Qwen2Tokenizer": TokenizerClass(True, _BYTES, _qwen(r"\p{L}", r"\p{L}"), _QWEN, again="plainly"),
    "Qwen3_5Tokenizer": TokenizerClass(True, _BYTES, _qwen(r"[\p{L}\p{M}]", r"\p{L}\p{M}"), _QWEN),
    "CohereTokenizer": TokenizerClass(
        True, _BYTES, _cohere,
        {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "unk_token": "<UNK>",
         "sep_token": "<SEP>", "pad_token": "<PAD>", "cls_token": "<CLS>", "mask_token": "<MASK_TOKEN>"},
        again="as named",
    ),
}  # fmt: skip
_TYPES = {
    "CodeLlamaTokenizer": "code_llama",
    "CohereTokenizer": "cohere cohere2",
    "GPT2Tokenizer": "codegen dbrx gpt2 gpt_neo gptj jais2 opt phi starcoder2",
    "GPTNeoXTokenizer": "gpt_neox mpt olmo olmoe",
    "GemmaTokenizer": "gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text",
    "Qwen2Tokenizer": "qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next",
    "Qwen3_5Tokenizer": "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text",
    _AS_FILED: (
        "arctic ernie4_5 ernie4_5_moe flex_olmo glm glm4 glm4_moe gpt_bigcode granite granitemoe granitemoehybrid"
        " granitemoeshared internlm2 internlm3 jamba minicpm3 ministral ministral3 mistral mistral3 mixtral"
        " modernbert-decoder nemotron olmo2 olmo3 olmo_hybrid persimmon phi3 phimoe stablelm"
    ),
}
_REGISTERED = {kind: name for name, kinds in _TYPES.items() for kind in kinds.split()}
_KNOWN_BETTER = frozenset({"qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text"})  # whatever class their folders name
