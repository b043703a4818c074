"""What a request needs that the checkpoint does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from aphrodite.engine.requests import RequestMaker
from aphrodite.errors import UsageError
from aphrodite.types.model_card import ModelCard
from aphrodite.types.sampling_params import SamplingParams


def maker(folder: Path) -> RequestMaker:
    """For a model of 16 tokens without a tokenizer."""
    card = ModelCard("model", str(folder), 16, 32, frozenset({2}), {}, 0)
    return RequestMaker(card, None)


def test_stop_texts_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"stop must be absent for a model without tokenizer.json, got \['x'\]"
    ) as caught:
        maker(tmp_path).make_all([[1, 2]], SamplingParams(stop="x"))
    assert caught.value.subject == "stop" and "use stop_token_ids" in str(caught.value)
    assert len(maker(tmp_path).make_all([[1, 2]], SamplingParams(stop=[], stop_token_ids=[3]))) == 1
