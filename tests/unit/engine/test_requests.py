"""What a request needs that the checkpoint does not have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aphrodite.engine.requests import RequestMaker
from aphrodite.errors import UsageError
from aphrodite.models.generation import GenerationConfig
from aphrodite.types.sampling_params import SamplingParams


def maker(folder: Path) -> RequestMaker:
    """For a model of 16 tokens without a tokenizer; only what the maker reads of a blueprint."""
    blueprint: Any = SimpleNamespace(
        spec=SimpleNamespace(vocab_size=16),
        sizes=SimpleNamespace(max_model_len=32),
        folder=folder,
        generation=GenerationConfig(frozenset({2}), {}, "none"),
        config=SimpleNamespace(model=SimpleNamespace(seed=0)),
    )
    return RequestMaker(blueprint, None)


def test_stop_texts_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"stop must be absent for a model without tokenizer.json, got \['x'\]"
    ) as caught:
        maker(tmp_path).make_all([[1, 2]], SamplingParams(stop="x"))
    assert caught.value.subject == "stop" and "use stop_token_ids" in str(caught.value)
    assert len(maker(tmp_path).make_all([[1, 2]], SamplingParams(stop=[], stop_token_ids=[3]))) == 1
