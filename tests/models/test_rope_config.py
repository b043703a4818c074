"""Every way that config.json says how positions are rotated, read as Transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from aphrodite.errors import ModelError
from aphrodite.models.config import HFConfig
from aphrodite.models.rope import read_rope
from tests.support.checkpoints import DEFAULTS

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "theta alone": {"rope_theta": 5000.0},
    "theta an integer": {"rope_theta": 500000},
    "scaling null": {"rope_theta": 5000.0, "rope_scaling": None},
    "parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 7000.0}},
    "parameters, llama3": {"rope_parameters": {**LLAMA3, "rope_theta": 7000.0}},
    "scaling, llama3": {"rope_theta": 7000.0, "rope_scaling": LLAMA3},
    "scaling, by type": {"rope_theta": 7000.0, "rope_scaling": {**LLAMA3, "type": "llama3"}},
    "scaling beside parameters": {
        "rope_theta": 9000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 7000.0},
        "rope_scaling": {**LLAMA3, "rope_theta": 9000.0},
    },
    "empty parameters beside scaling": {"rope_theta": 9000.0, "rope_parameters": {}, "rope_scaling": LLAMA3},
    "partial factor, which Llama does not know": {"partial_rotary_factor": 0.5},
    "odd head_dim from the heads": {"head_dim": 20},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 2e4}},
    "old linear, of a theta outside": {"rope_theta": 3e4, "rope_scaling": {"type": "linear", "factor": 0.5}},
}


def written(folder: Path, fields: dict[str, Any]) -> Path:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **DEFAULTS, **fields}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_table_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(written(tmp_path, CASES[name]))
    head_dim = CASES[name].get("head_dim", 16)
    position = torch.arange(300)[None]
    cos, sin = LlamaRotaryEmbedding(config=config)(torch.zeros(1), position)
    table = read_rope(HFConfig.read(tmp_path), head_dim).table(300)
    half = head_dim // 2
    torch.testing.assert_close(table[:, :half], cos[0, :, :half], rtol=0, atol=2e-6)
    torch.testing.assert_close(table[:, half:], sin[0, :, :half], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_parameters": {}, "rope_scaling": {"type": "yarn", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    ],
)
def test_a_scaling_that_is_not_supported_is_refused_wherever_it_stands(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not supported; supported: default, linear, llama3"):
        read_rope(HFConfig.read(written(tmp_path, fields)), 16)


def test_a_head_that_cannot_be_split_in_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="head_dim 7 cannot be rotated in pairs"):
        read_rope(HFConfig.read(written(tmp_path, {"head_dim": 7})), 7)
