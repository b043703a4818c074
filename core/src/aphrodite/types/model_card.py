"""What must be known of a running model to prepare requests for it, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelCard:
    """Plain data: it may cross processes as it is.

    name, folder   as the caller named it, and where its tokenizer is
    max_model_len  longest sequence, prompt and output
    end_ids        the model's own end tokens
    defaults       of sampling parameters that a caller leaves out, by name
    seed           the engine's, from which requests without one draw theirs
    """

    name: str
    folder: str
    vocab_size: int
    max_model_len: int
    end_ids: frozenset[int]
    defaults: Mapping[str, Any]
    seed: int
