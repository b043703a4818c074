"""Llama gives what Transformers gives: every token, every log-probability, however the work is cut into steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from aphrodite import SamplingParams
from aphrodite.errors import CheckpointError
from tests.support.checkpoints import Checkpoints
from tests.support.engines import engine, watch_preemption
from tests.support.parity import check_half_precision, check_parity, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GQA = {"hidden_size": 80, "num_attention_heads": 8, "num_key_value_heads": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama 2: every head its own keys": {"num_key_value_heads": 4},
    "llama 3: grouped heads": {**GQA, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "one key head": {"num_key_value_heads": 1},
    "llama 3.1: stretched positions": {**GQA, "rope_parameters": LLAMA3},
    "llama 3.2: stretched positions, tied": {"rope_parameters": LLAMA3, "tie_word_embeddings": True},
    "tied": {"tie_word_embeddings": True},
    "attention biases": {"attention_bias": True},
    "feed-forward biases": {"mlp_bias": True},
    "all biases, heads of 20": {"attention_bias": True, "mlp_bias": True, "head_dim": 20},
    "heads of 6, three of them": {
        "hidden_size": 66,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 6,
    },
    "hidden size no multiple of the heads": {
        "hidden_size": 50,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 14,
    },
    "one layer": {"num_hidden_layers": 1},
    "five layers, odd sizes": {"num_hidden_layers": 5, "hidden_size": 40, "intermediate_size": 37, "seed": 5},
    "gelu": {"hidden_act": "gelu"},
    "gelu, tanh form": {"hidden_act": "gelu_pytorch_tanh"},
    "gelu_new": {"hidden_act": "gelu_new"},
    "large epsilon": {"rms_norm_eps": 0.1},
    "shards": {"shard_size": "40KB"},
    "old config": {"old_style": "rope_type"},
    "old config, stretched positions": {"rope_parameters": LLAMA3, "old_style": "rope_type"},
    "old config, stretched positions, named by type": {"rope_parameters": LLAMA3, "old_style": "type"},
    "config without head_dim": {"without": ("head_dim",)},
    "config without what has a default": {
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "without": ("head_dim", "attention_bias", "mlp_bias", "rms_norm_eps", "num_key_value_heads", "hidden_act"),
    },
}
SEVERAL = (1, 2, 17, 40, 131)
MANY = (1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 65, 127, 200, 300)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_token_and_log_probability_is_that_of_transformers(
    name: str, device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.llama(**CONFIGS[name])
    with engine(folder, device) as llm:
        check_parity(llm, reference(folder), random_prompts(SEVERAL, seed=1), label=f"{name}, {device}")


def test_checkpoint_in_shards_has_several_files(checkpoints: Checkpoints) -> None:
    assert len(list(checkpoints.llama(**CONFIGS["shards"]).glob("model-*.safetensors"))) > 3


CUTS: dict[str, dict[str, Any]] = {
    "one step holds everything": {"max_num_batched_tokens": 2048},
    "chunks of 7": {"max_num_batched_tokens": 7, "max_num_seqs": 5},
    "chunks of 33": {"max_num_batched_tokens": 33},
    "chunks of 64": {"max_num_batched_tokens": 64},
    "one sequence at a time": {"max_num_seqs": 1, "max_num_batched_tokens": 50},
    "two sequences, one token a step each": {"max_num_seqs": 2, "max_num_batched_tokens": 2},
    "a cache that holds one long prompt": {"cache_tokens": 400, "max_num_batched_tokens": 64},
}


@pytest.mark.parametrize("name", CUTS)
def test_mixed_batch_is_right_however_it_is_cut(
    name: str, device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.llama(**CONFIGS["llama 3.1: stretched positions"])
    lengths = MANY[:9] if "one token a step" in name else MANY
    with engine(folder, device, **CUTS[name]) as llm:
        check_parity(llm, reference(folder), random_prompts(lengths, seed=2), label=f"{name}, {device}")


def test_block_sizes_of_the_device_change_nothing(device: str, checkpoints: Checkpoints, reference: Load) -> None:
    folder = checkpoints.llama(**CONFIGS["llama 3: grouped heads"])
    with engine(folder, device) as llm:
        sizes = llm.blueprint.limits.block_sizes
    for size in sizes:
        with engine(folder, device, block_size=size) as llm:
            check_parity(llm, reference(folder), random_prompts(SEVERAL, seed=3), label=f"{size}, {device}")


def test_preempted_sequences_compute_the_same_tokens_again(
    device: str, checkpoints: Checkpoints, reference: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    preempted = watch_preemption(monkeypatch)
    folder = checkpoints.llama(**CONFIGS["llama 3: grouped heads"])
    prompts = random_prompts((15, 14, 16, 1, 30, 13, 31, 12), seed=4)
    settings = {"max_model_len": 64, "cache_tokens": 80, "max_num_batched_tokens": 24}
    with engine(folder, device, **settings) as llm:
        check_parity(llm, reference(folder), prompts, num_tokens=20, label=f"preemption, {device}")
    print(f"{len(preempted)} preemptions, with {preempted} tokens drawn")
    assert any(drawn > 0 for drawn in preempted), "the cache was not small enough to preempt a decoding sequence"


def test_positions_beyond_the_original_length_are_stretched_as_transformers_does(
    device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.llama(**CONFIGS["llama 3.1: stretched positions"])
    assert LLAMA3["original_max_position_embeddings"] == 64
    prompts = random_prompts((63, 64, 65, 300), seed=6)
    with engine(folder, device) as llm:
        check_parity(llm, reference(folder), prompts, num_tokens=16, label=f"long, {device}")


# Largest difference allowed from Transformers computing in the same type; eps is 2^-8 and 2^-11.
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.4), ("float16", 0.05)])
@pytest.mark.parametrize("name", ["llama 3.1: stretched positions", "all biases, heads of 20", "tied"])
def test_half_precision_is_as_near_to_float32_as_transformers_is(
    name: str, dtype: str, tolerance: float, device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.llama(**CONFIGS[name], dtype=dtype)
    exact, theirs = reference(folder, "float32"), reference(folder, dtype)
    prompts = random_prompts(SEVERAL, seed=7)
    with engine(folder, device, dtype=dtype) as llm:
        check_half_precision(llm, exact, theirs, prompts, tolerance=tolerance, label=f"{name}, {dtype}, {device}")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_computed_in_float32_are_exact(
    dtype: str, device: str, checkpoints: Checkpoints, reference: Load
) -> None:
    folder = checkpoints.llama(**CONFIGS["llama 3: grouped heads"], dtype=dtype)
    with engine(folder, device) as llm:
        check_parity(llm, reference(folder), random_prompts(SEVERAL, seed=8), label=f"{dtype} weights, {device}")


def test_the_core_alone_needs_no_plugin(checkpoints: Checkpoints, reference: Load) -> None:
    folder = checkpoints.llama(**CONFIGS["llama 3.1: stretched positions"])
    with engine(folder, "cpu", plugins="none") as llm:
        assert llm.blueprint.entry.plugin == "core"
        check_parity(llm, reference(folder), random_prompts(MANY, seed=9), label="core alone")


def with_head(checkpoints: Checkpoints, to: Any, *, equal: bool) -> Any:
    """A tied checkpoint that carries an output matrix all the same: the embedding's copy, or another."""
    folder = checkpoints.copy(checkpoints.llama(**CONFIGS["tied"]), to)
    weights = load_file(folder / "model.safetensors")
    head = weights["model.embed_tokens.weight"].clone()
    weights["lm_head.weight"] = head if equal else head.flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_tied_checkpoint_may_carry_a_copy_of_its_embedding(
    device: str, checkpoints: Checkpoints, tmp_path: Any
) -> None:
    folder = with_head(checkpoints, tmp_path / "copy", equal=True)
    with engine(folder, device) as llm:
        check_parity(llm, Reference(folder), random_prompts(SEVERAL, seed=10), label=f"copied head, {device}")


def test_tied_checkpoint_with_another_output_matrix_is_not_read_as_tied(
    device: str, checkpoints: Checkpoints, tmp_path: Any
) -> None:
    # Transformers then uses the matrix in the file; refusing it is fine too, dropping it without a word is not.
    folder = with_head(checkpoints, tmp_path / "other", equal=False)
    try:
        llm = engine(folder, device)
    except CheckpointError as error:
        refusal = str(error)
    else:
        refusal = "lm_head.weight"
        with llm:
            check_parity(llm, Reference(folder), random_prompts(SEVERAL, seed=10), label=f"other head, {device}")
    assert "lm_head.weight" in refusal


def test_text_prompts_and_token_prompts_mix(device: str, checkpoints: Checkpoints, reference: Load) -> None:
    folder = checkpoints.llama(**CONFIGS["llama 3: grouped heads"])
    with engine(folder, device) as llm:
        assert llm.tokenizer is not None
        ids = llm.tokenizer.encode("the engine is late")
        params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
        text, tokens, other = llm.generate(["the engine is late", {"prompt_token_ids": ids}, [5, 6, 7]], params)
    assert text.prompt == "the engine is late"
    assert text.prompt_token_ids == tokens.prompt_token_ids == ids
    expected = reference(folder).greedy(ids, 6)
    assert text.outputs[0].token_ids == tokens.outputs[0].token_ids == expected
    assert other.outputs[0].token_ids == reference(folder).greedy([5, 6, 7], 6)
