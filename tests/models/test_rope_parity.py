"""Every scaling of positions, in an engine, gives what Transformers gives for one sequence without a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aphrodite import LLM, SamplingParams
from aphrodite.errors import ModelError, UsageError
from tests.support.checkpoints import Checkpoints
from tests.support.engines import engine
from tests.support.parity import TOLERANCE, Differences, ParityError, check_parity, check_position, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 50}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}


def longrope(dim: int, original: int = 300, **fields: Any) -> dict[str, Any]:
    """LongRoPE for `dim` rotated dimensions."""
    factors = {
        "short_factor": [1 + 0.2 * i for i in range(dim // 2)],
        "long_factor": [2.0 + i for i in range(dim // 2)],
    }
    return {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "original_max_position_embeddings": original,
        **factors,
        **fields,
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "yarn": {"family": "llama", "rope_parameters": YARN},
    "yarn, old config, named by type": {
        "family": "qwen2",
        "rope_parameters": YARN,
        "old_style": "type",
        "head_dim": 16,
    },
    "yarn, both mscales, a ramp of its own": {
        "family": "qwen3",
        "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3, "beta_fast": 8, "beta_slow": 2},
    },
    "yarn, attention factor given, not truncated": {
        "family": "mixtral",
        "rope_parameters": {**YARN, "attention_factor": 0.7, "truncate": False},
    },
    "yarn, pairs of neighbours": {"family": "cohere", "rope_parameters": YARN, "logit_scale": 0.75, "head_dim": 20},
    "yarn in the full layers alone": {
        "family": "gemma3_text",
        "num_hidden_layers": 3,
        "sliding_window": 11,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": YARN,
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
        },
    },
    "yarn in the full layers alone, where truncate has no effect": {
        "family": "gemma3_text",
        "layer_types": ["sliding_attention", "full_attention"],
        "head_dim": 18,
        "rope_parameters": {
            "full_attention": {**YARN, "rope_theta": 5e5, "original_max_position_embeddings": 75, "truncate": False},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    },
    "dynamic, not longer than the training": {"family": "starcoder2", "rope_parameters": DYNAMIC, "head_dim": 16},
    "linear, beside a window": {"family": "qwen2", "rope_parameters": LINEAR, "num_attention_heads": 2, "head_dim": 34},
    "linear, heads of experts' layers": {"family": "qwen3_moe", "rope_parameters": LINEAR},
    "longrope, short": {"family": "llama", "rope_parameters": longrope(16)},
    "longrope, factors given": {"family": "mistral", "rope_parameters": longrope(16, factor=2.0, attention_factor=1.5)},
    "longrope of a part of each head": {
        "family": "phi3",
        "num_attention_heads": 2,
        "partial_rotary_factor": 0.75,
        "rope_parameters": longrope(24),
        "original_max_position_embeddings": 300,
    },
    "longrope by its first name": {
        "family": "phi3",
        "rope_parameters": longrope(16),
        "original_max_position_embeddings": 300,
        "old_style": "type",
        "fields": {"rope_scaling": {**longrope(16), "rope_type": "su", "type": "su"}},
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_token_and_log_probability_is_that_of_transformers(
    name: str, device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.make(**CONFIGS[name])
    with engine(folder, device, max_model_len=250) as llm:
        prompts = random_prompts((2, 30, 150), seed=1)
        check_parity(llm, reference(folder), prompts, num_tokens=4, label=f"{name}, {device}")


def test_yarn_serves_as_many_tokens_as_it_stretches_to(checkpoints: Checkpoints, reference: Load) -> None:
    folder = checkpoints.make("qwen3", rope_parameters={**YARN, "factor": 6.0}, max_position_embeddings=50)
    with engine(folder, "cpu", max_model_len=300) as llm:
        check_parity(llm, reference(folder), random_prompts((40, 280), seed=2), num_tokens=4, label="beyond")
    with pytest.raises(UsageError, match=r"max_model_len must be at most 300, .*yarn scaling, got 301"):
        engine(folder, "cpu", max_model_len=301)


# ---- dynamic: one factor for all, that of max_model_len -----------------------------------------------------------


def check_whole(llm: LLM, folder: Any, length: int) -> None:
    """Every log-probability of one sequence of that length, against Transformers reading it at once."""
    (text,) = random_prompts((length - 1,), seed=3)
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=5, logprobs=5)
    (output,) = llm.generate([text], params)
    text = [*text, *output.outputs[0].token_ids]
    truth, found = Reference(folder).logprobs(text), Differences()
    for place, entries in enumerate((output.prompt_logprobs or [])[1:]):
        check_position(entries or {}, text[place + 1], truth[place], found, f"position {place + 1}")
    found.require(TOLERANCE)
    assert len(found.values) > length


def test_dynamic_scaling_beyond_its_length_is_fixed_once_by_max_model_len(
    device: str, checkpoints: Checkpoints
) -> None:
    folder = checkpoints.make("llama", rope_parameters=DYNAMIC, max_position_embeddings=60)
    with engine(folder, device) as llm:
        assert llm.blueprint.sizes.max_model_len == 400 > llm.blueprint.spec.max_position
        assert "dynamic scaling is that of 400 tokens" in llm.blueprint.reasons["rope"]
        check_whole(llm, folder, 400)
        with pytest.raises(ParityError):
            check_whole(llm, folder, 100)  # in Transformers a shorter sequence has a factor of its own
    with engine(folder, device, max_model_len=60) as llm:
        assert "rope" not in llm.blueprint.reasons
        check_whole(llm, folder, 60)
        check_whole(llm, folder, 20)


def test_dynamic_scaling_is_not_stretched_unless_somebody_asks(checkpoints: Checkpoints) -> None:
    folder = checkpoints.make("llama", rope_parameters=DYNAMIC, max_position_embeddings=60)
    with engine(folder, "cpu", max_model_len=None) as llm:
        assert llm.blueprint.sizes.max_model_len == 60


# ---- longrope: both parts of its table. How a sequence passes from one to the other: test_rope_regimes.py ----------


def test_both_parts_of_longropes_table_serve_a_batch_of_short_and_long_sequences(
    device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.make("llama", rope_parameters=longrope(16, original=90))
    with engine(folder, device) as llm:
        prompts = random_prompts((1, 17, 80, 91, 150, 300), seed=5)
        check_parity(llm, reference(folder), prompts, num_tokens=4, label=f"both parts, {device}")
        check_whole(llm, folder, 90)
        check_whole(llm, folder, 92)


def test_a_scaling_nobody_knows_is_refused(checkpoints: Checkpoints) -> None:
    folder = checkpoints.make("llama", fields={"rope_parameters": {"rope_type": "spiral", "factor": 2.0}})
    with pytest.raises(ModelError, match="rope_type 'spiral' is not supported; supported: default, linear"):
        engine(folder, "cpu")
