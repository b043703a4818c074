"""Family pages: what a config says is what the network is, in every form it is written in; the rest is refused."""

from __future__ import annotations

from typing import Any

import pytest

from aphrodite.errors import ModelError
from aphrodite.kv.spec import LayerKV
from aphrodite.layers.rope import LinearScaling, RopeSpec
from aphrodite.models.config import HFConfig
from aphrodite.models.decoder import Decoder
from aphrodite.models.registry import decoder_spec
from aphrodite.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MLPSpec

FULL, SLIDING = "full_attention", "sliding_attention"
SIZES = {
    "vocab_size": 50,
    "hidden_size": 36,
    "intermediate_size": 20,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def read(architecture: str, **fields: Any) -> DecoderSpec:
    return decoder_spec(HFConfig({"architectures": [architecture], **SIZES, **fields}, "config.json"))


def windows(spec: DecoderSpec) -> list[int]:
    return [layer.attention.window for layer in spec.layers]


def test_what_a_config_leaves_out_is_what_transformers_takes() -> None:
    mistral, gemma2, gemma3 = (read(f"{name}ForCausalLM") for name in ("Mistral", "Gemma2", "Gemma3"))
    assert windows(mistral) == [4096] * 6
    assert windows(gemma2) == [4096, 0] * 3
    assert windows(gemma3) == [4096] * 5 + [0]
    assert [spec.tied for spec in (mistral, gemma2, gemma3)] == [False, True, True]
    assert [spec.layers[0].mlp.act for spec in (mistral, gemma2, gemma3)] == ["silu", "gelu_tanh", "gelu_tanh"]
    assert [spec.layers[0].attention.softcap for spec in (mistral, gemma2, gemma3)] == [0, 50, 0]
    assert [spec.logit_softcap for spec in (mistral, gemma2, gemma3)] == [0, 30, 0]
    assert [spec.layers[0].attention.scale for spec in (mistral, gemma2, gemma3)] == [8**-0.5, 1 / 16, 1 / 16]
    assert [spec.embedding_scale for spec in (mistral, gemma2, gemma3)] == [1, 6, 6]
    assert [spec.norm_offset for spec in (mistral, gemma2, gemma3)] == [0, 1, 1]
    assert [layer.attention.rope.theta for layer in gemma3.layers] == [1e4] * 5 + [1e6]


def test_null_is_no_window_and_no_cap() -> None:
    assert windows(read("MistralForCausalLM", sliding_window=None)) == [0] * 6
    gemma2 = read("Gemma2ForCausalLM", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert gemma2.logit_softcap == 0 and {layer.attention.softcap for layer in gemma2.layers} == {0}


def test_two_rope_bases_are_read_in_both_forms() -> None:
    stretched = {"rope_type": "linear", "factor": 8.0}
    new = read(
        "Gemma3ForCausalLM",
        sliding_window_pattern=3,
        rope_parameters={FULL: {"rope_theta": 5e6, **stretched}, SLIDING: {"rope_type": "default", "rope_theta": 2e4}},
    )
    old = read(
        "Gemma3ForCausalLM",
        layer_types=[SLIDING, SLIDING, FULL] * 2,
        rope_theta=5e6,
        rope_local_base_freq=2e4,
        rope_scaling=stretched,
    )
    assert new == old
    near, far = RopeSpec(2e4, 8), RopeSpec(5e6, 8, scaling=LinearScaling(8.0))
    assert [layer.attention.rope for layer in new.layers] == [near, near, far] * 2


REFUSED: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "activation": ("Gemma2", {"hidden_activation": "mish"}, ("hidden_activation", "'mish'", "gelu_pytorch_tanh")),
    "kind of layer": ("Gemma3", {"layer_types": [FULL] * 5 + ["chunked_attention"]}, ("layer_types", "'chunked_")),
    "number of layers": ("Gemma2", {"layer_types": [FULL] * 5}, ("layer_types", "6", "num_hidden_layers")),
    "layer types of mistral": ("Mistral", {"layer_types": [FULL] * 6}, ("layer_types", "alike")),
    "no window for sliding layers": ("Gemma2", {"sliding_window": None}, ("sliding_window", SLIDING)),
    "a window of nothing": ("Mistral", {"sliding_window": 0}, ("sliding_window", "above 0", "got 0")),
    "a window that is no number": ("Mistral", {"sliding_window": "4k"}, ("sliding_window", "'4k'")),
    "a negative cap": ("Gemma2", {"final_logit_softcapping": -1.0}, ("final_logit_softcapping", "-1.0")),
    "a cap that Gemma 3 has not": ("Gemma3", {"attn_logit_softcapping": 50.0}, ("attn_logit_softcapping", "50.0")),
    "both directions": ("Gemma3", {"use_bidirectional_attention": True}, ("use_bidirectional_attention", "causal")),
    "one rope for two": ("Gemma3", {"rope_parameters": {"rope_theta": 1e4}}, ("rope_theta", FULL, SLIDING)),
    "two scalings for one": (
        "Gemma3",
        {"rope_parameters": {FULL: {}, SLIDING: {}}, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ("rope_parameters", "rope_scaling", "keep one"),
    ),
    "two ropes for one": ("Gemma2", {"rope_parameters": {FULL: {}}}, (FULL, "one rotary embedding")),
    "a scaling of one kind": (
        "Gemma3",
        {"rope_parameters": {FULL: {"rope_type": "yarn"}, SLIDING: {}}},
        ("rope_parameters: full_attention", "'yarn'", "linear"),
    ),
    "a factor of nothing": (
        "Gemma3",
        {"rope_scaling": {"rope_type": "linear", "factor": 0}},
        ("rope_scaling", "factor", "above 0"),
    ),
    "a scalar of nothing": ("Gemma2", {"query_pre_attn_scalar": 0}, ("query_pre_attn_scalar", "above 0")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_its_name(name: str) -> None:
    family, fields, words = REFUSED[name]
    with pytest.raises(ModelError) as caught:
        read(f"{family}ForCausalLM", **fields)
    for word in ("config.json", *words):
        assert word in str(caught.value), (word, str(caught.value))


def test_a_cache_group_has_the_layers_of_one_window_whatever_their_heads() -> None:
    def layer(kv_heads: int, head_dim: int, window: int) -> LayerSpec:
        attention = AttentionSpec(4, kv_heads, head_dim, RopeSpec(1e4, head_dim), head_dim**-0.5, window)
        return LayerSpec(attention, MLPSpec(20, "silu"))

    layers = (layer(2, 8, 7), layer(1, 16, 0), layer(4, 4, 7), layer(2, 8, 30))
    decoder = Decoder(DecoderSpec(50, 36, 1e-6, layers, tied=True, max_position=64), "f16", max_len=1)
    full, near, far = decoder.cache_groups
    assert [(group.kind, group.window) for group in decoder.cache_groups] == [
        ("full", None),
        ("sliding", 7),
        ("sliding", 30),
    ]
    assert full.layers == (LayerKV(1, 16, 16, 2),) and far.layers == (LayerKV(2, 8, 8, 2),)
    assert near.layers == (LayerKV(2, 8, 8, 2), LayerKV(4, 4, 4, 2))
    assert [(ref.layer, ref.group) for ref in decoder.kv_refs] == [(0, 1), (1, 0), (2, 1), (3, 2)]
    program = decoder.record(block_size=16, table_width=4, meta_words=0)
    slots = [call.args["group"] for call in program.calls if call.op.name == "step_slots@1"]
    assert slots == [0, 1, 2]
    inputs = {call.args["group"]: call.args["slots"] for call in program.calls if call.op.name == "step_slots@1"}
    written = [call.args["slots"] for call in program.calls if call.op.name == "kv_write@1"]
    assert written == [inputs[group] for group in (1, 0, 1, 2)]
