"""What a checkpoint says about generating: its end tokens, and its defaults of sampling parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aphrodite.config.engine import AUTO
from aphrodite.errors import ModelError, UsageError
from aphrodite.models.config import HFConfig, read_json
from aphrodite.types.sampling_params import SamplingParams

FILE = "generation_config.json"
NONE = "none"
_TAKEN = {  # its names, and ours
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
_OFF: Mapping[str, Any] = {  # other names that would change what is drawn, and the values at which they do not
    "do_sample": True,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "penalty_alpha": 0.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "bad_words_ids": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": {},
}


@dataclass(frozen=True)
class GenerationConfig:
    """What a model's generation config gives.

    end_ids   ids that end a text; empty if neither it nor config.json names one
    defaults  of parameters that a caller leaves out, by name
    reason    where the defaults come from
    notes     what it says and we do not do
    """

    end_ids: frozenset[int]
    defaults: Mapping[str, Any]
    reason: str
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, setting: str, folder: Path, config: HFConfig, vocab_size: int) -> GenerationConfig:
        """By the setting generation_config: "auto", the folder's file; "none", its end tokens alone; or a path. End
        tokens that are not in the vocabulary can never be drawn: they are left out, with a note.

        ModelError if the file is wrong, UsageError if the path leads nowhere.
        """
        path = folder / FILE
        if setting not in (AUTO, NONE):
            path = Path(setting) / FILE if Path(setting).is_dir() else Path(setting)
            if not path.is_file():
                raise UsageError(
                    f"generation_config must be auto, none, or the path of a file or of a folder with {FILE}, "
                    f"got {setting!r}",
                    subject="generation_config",
                )
        generation = HFConfig(read_json(path), str(path)) if path.exists() else HFConfig({}, str(path))
        listed, notes = _end_token_ids(generation, config), []
        end_ids = frozenset(token for token in listed if token < vocab_size)
        if beyond := sorted(listed - end_ids):
            shown = ", ".join(map(str, beyond[:3])) + (" ..." if len(beyond) > 3 else "")
            notes.append(
                f"eos_token_id {shown} is not among the {vocab_size} tokens of the vocabulary: no text ends by it"
            )
        if setting == NONE:
            return cls(end_ids, MappingProxyType({}), "our own defaults: generation_config is none", tuple(notes))
        defaults = {
            ours: generation.data[theirs] for theirs, ours in _TAKEN.items() if generation.data.get(theirs) is not None
        }
        defaults = _checked(defaults, generation.where)
        shown = ", ".join(f"{name} {value}" for name, value in defaults.items())
        reason = f"{shown}: from {generation.where}" if shown else f"our own defaults: {FILE} gives none"
        unused = [name for name, off in _OFF.items() if generation.data.get(name, off) not in (off, None, [])]
        if unused:
            notes.append(f"{generation.where} also sets {', '.join(unused)}, which has no effect here")
        return cls(end_ids, MappingProxyType(defaults), reason, tuple(notes))


def _checked(defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The defaults as SamplingParams has them. ModelError for one that it would refuse."""
    try:
        params = SamplingParams(**defaults)
    except UsageError as error:
        raise ModelError(
            f"{where}: {error}; mend it, or pass generation_config='none'", subject=error.subject
        ) from None
    return {name: getattr(params, name) for name in defaults}


def _end_token_ids(generation: HFConfig, config: HFConfig) -> frozenset[int]:
    """Ids that end a text: the generation config's, else config.json's."""
    for source in (generation, config):
        value = source.data.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(token) is int and token >= 0 for token in ids):
            raise ModelError(
                f"{source.where}: eos_token_id must be a token id or a list of them, got {value!r}",
                subject="eos_token_id",
            )
        return frozenset(ids)
    return frozenset()
