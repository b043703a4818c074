"""Every way that config.json says how positions are rotated, read as Transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

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
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
SHORT, LONG = ([1 + 0.1 * i for i in range(8)], [2.0 + i for i in range(8)])
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": SHORT,
    "long_factor": LONG,
    "original_max_position_embeddings": 400,
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
    "llama3, of the length outside": {
        "rope_parameters": {**LLAMA3, "rope_theta": 7000.0},
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_parameters": YARN},
    "old yarn": {"rope_theta": 2e4, "rope_scaling": {**YARN, "type": "yarn", "rope_theta": 2e4}},
    "yarn of the whole length": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.5}},
    "yarn, of the length outside": {"rope_parameters": YARN, "original_max_position_embeddings": 64},
    "yarn, ramp of its own": {"rope_parameters": {**YARN, "beta_fast": 8, "beta_slow": 2.5}},
    "yarn, ramp of no width": {"rope_parameters": {**YARN, "beta_fast": 4, "beta_slow": 4, "truncate": False}},
    "yarn, not truncated": {"rope_parameters": {**YARN, "truncate": False}},
    "yarn, attention factor given": {"rope_parameters": {**YARN, "attention_factor": 0.7, "mscale": 2.0}},
    "yarn, both mscales": {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    "yarn, one mscale alone": {"rope_parameters": {**YARN, "mscale": 0.7}},
    "yarn, factor of the lengths": {"rope_parameters": {**YARN, "factor": None}},
    "yarn, factor 1": {"rope_parameters": {**YARN, "factor": 1.0}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.5, "rope_theta": 1e4}},
    "dynamic, from position 100 on": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.5, "rope_theta": 1e4},
        "max_position_embeddings": 100,
    },
    "longrope, short": {"rope_parameters": LONGROPE},
    "longrope, factor and attention factor given": {
        "rope_parameters": {**LONGROPE, "factor": 3.0, "attention_factor": 1.5}
    },
    "longrope, factor given": {"rope_parameters": {**LONGROPE, "factor": 3.0}},
    "longrope, of the length outside": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 350},
}


def written(folder: Path, fields: dict[str, Any], family: str = "Llama") -> Path:
    config = {"architectures": [f"{family}ForCausalLM"], "model_type": family.lower(), **DEFAULTS, **fields}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_table_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(written(tmp_path, CASES[name]))
    head_dim = CASES[name].get("head_dim", 16)
    position = torch.arange(300)[None]
    cos, sin = LlamaRotaryEmbedding(config=config)(torch.zeros(1), position)
    table = read_rope(HFConfig.read(tmp_path), head_dim).table(300)
    assert table.shape == (300, head_dim) and cos.shape[-1] == head_dim
    half = head_dim // 2
    torch.testing.assert_close(table[:, :half], cos[0, :, :half], rtol=0, atol=2e-6)
    torch.testing.assert_close(table[:, half:], sin[0, :, :half], rtol=0, atol=2e-6)


def test_a_part_of_each_head_is_rotated_where_the_family_does_so(tmp_path: Path) -> None:
    fields = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}}
    outside = {"rope_theta": 1e4, "partial_rotary_factor": 0.75}
    scaled = {"rope_theta": 1e4, "rope_scaling": {**LONGROPE, "short_factor": SHORT[:6], "long_factor": LONG[:6]}}
    for given in (fields, outside, {**outside, **scaled}):
        folder = written(tmp_path, {**given, "pad_token_id": 0, "original_max_position_embeddings": 400}, "Phi3")
        config = AutoConfig.from_pretrained(folder)
        cos, sin = Phi3RotaryEmbedding(config=config)(torch.zeros(1), torch.arange(300)[None])
        spec = read_rope(HFConfig.read(folder), 16, partial=True)
        assert spec.rotary_dim == cos.shape[-1] == 12
        torch.testing.assert_close(spec.table(300), torch.cat((cos[0, :, :6], sin[0, :, :6]), -1), rtol=0, atol=2e-6)


def test_longropes_table_has_both_parts_where_sequences_may_be_longer(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(written(tmp_path, {"rope_parameters": LONGROPE}))
    spec = read_rope(HFConfig.read(tmp_path), 16)
    assert (spec.switch(400), spec.switch(401)) == (None, 400)
    assert spec.constant(400).shape == (400, 16) and spec.constant(410).shape == (820, 16)
    for length, start in ((400, 0), (410, 410)):
        cos, sin = LlamaRotaryEmbedding(config=config)(torch.zeros(1), torch.arange(length)[None])
        truth = torch.cat((cos[0, :, :8], sin[0, :, :8]), -1)
        torch.testing.assert_close(spec.table(410)[start : start + length], truth, rtol=0, atol=2e-6)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"rope_type": "axial"}, "'axial' is not supported; supported: default, linear, llama3, dynamic, yarn"),
    "a part of a head": ({**YARN, "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 .* whole heads"),
    "no part of a head": ({"partial_rotary_factor": 0.0}, r"partial_rotary_factor must be in \(0, 1\], got 0"),
    "factor below 1": ({**YARN, "factor": 0.5}, "factor must be at least 1, got 0.5"),
    "no factor": ({"rope_type": "dynamic"}, "'factor' is missing"),
    "ramp backwards": ({**YARN, "beta_fast": 1, "beta_slow": 32}, "0 < beta_slow <= beta_fast, got 32.0 and 1.0"),
    "base of 1": ({**YARN, "rope_theta": 1.0}, "needs a rope_theta above 1"),
    "no factors": ({**LONGROPE, "long_factor": None}, "'long_factor' must list 8 positive numbers"),
    "too few factors": ({**LONGROPE, "short_factor": [1.0] * 7}, "'short_factor' must list 8 positive numbers"),
    "a factor of nothing": ({**LONGROPE, "short_factor": [0.0] * 8}, "'short_factor' must list 8 positive numbers"),
    "factors that are no numbers": ({**LONGROPE, "long_factor": ["1"] * 8}, "'long_factor' must list 8 positive"),
}


@pytest.mark.parametrize("form", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_scaling_that_cannot_be_is_refused_wherever_it_stands(name: str, form: str, tmp_path: Path) -> None:
    fields, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason):
        read_rope(HFConfig.read(written(tmp_path, {"rope_parameters": {}, form: fields})), 16)


def test_a_head_that_cannot_be_split_in_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="head_dim 7 cannot be rotated in pairs"):
        read_rope(HFConfig.read(written(tmp_path, {"head_dim": 7})), 7)
