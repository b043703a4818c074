"""Family pages: what a config says is what the network is, in every form it is written in; the rest is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from aphrodite.errors import ModelError
from aphrodite.kv.spec import LayerKV
from aphrodite.layers.moe import Routing
from aphrodite.layers.rope import LinearScaling, RopeSpec
from aphrodite.models.config import HFConfig
from aphrodite.models.decoder import Decoder
from aphrodite.models.registry import decoder_spec
from aphrodite.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MLPSpec
from aphrodite.models.unread import _NEUTRAL

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


def test_what_a_config_of_the_other_families_leaves_out_is_what_transformers_takes() -> None:
    none = {"num_key_value_heads": None, "num_attention_heads": 8}
    qwen2, qwen3, moe, mixtral = (
        read(f"{name}ForCausalLM", **none) for name in ("Qwen2", "Qwen3", "Qwen3Moe", "Mixtral")
    )
    starcoder, cohere, cohere2, phi3 = (
        read(f"{name}ForCausalLM", **none) for name in ("Starcoder2", "Cohere", "Cohere2", "Phi3")
    )
    every = (qwen2, qwen3, moe, mixtral, starcoder, cohere, cohere2, phi3)
    assert [spec.layers[0].attention.num_kv_heads for spec in every] == [8] * 8, "null is as many as there are heads"
    assert [windows(spec) for spec in every] == [[0] * 6] * 6 + [[4096, 4096, 4096, 0, 4096, 4096], [0] * 6]
    assert [spec.tied for spec in every] == [False] * 4 + [True] * 3 + [False]
    assert [spec.norm_eps for spec in every] == [1e-6] * 3 + [1e-5] * 5
    assert [spec.max_position for spec in every] == [32768] * 3 + [131072, 4096, 8192, 8192, 4096]
    ropes = [spec.layers[0].attention.rope for spec in every]
    assert [rope.theta for rope in ropes if rope] == [1e4] * 3 + [1e6, 1e4, 5e5, 1e4, 1e4]
    assert [layer.attention.rope is None for layer in cohere2.layers] == [False] * 3 + [True, False, False]
    assert moe.layers[5].mlp.experts == Routing(128, 8, renorm=False) and moe.layers[5].mlp.inner_size == 768
    assert mixtral.layers[0].mlp.experts == Routing(8, 2, renorm=True)
    assert [spec.layers[0].mlp.act for spec in every] == ["silu"] * 4 + ["gelu_tanh"] + ["silu"] * 3
    assert (cohere.logit_scale, cohere2.logit_scale, qwen2.logit_scale) == (0.0625, 0.0625, 1)
    assert [spec.layers[0].attention.qkv_bias for spec in every] == [True] + [False] * 3 + [True] + [False] * 3


def test_key_heads_that_a_config_leaves_out_are_the_familys_own() -> None:
    for name, number in (("Qwen2", 32), ("Qwen3Moe", 4), ("Mixtral", 8), ("Mistral", 8), ("Starcoder2", 2)):
        fields = {"architectures": [f"{name}ForCausalLM"], **SIZES, "num_attention_heads": 32}
        del fields["num_key_value_heads"]
        spec = decoder_spec(HFConfig(fields, "config.json"))
        assert spec.layers[0].attention.num_kv_heads == number, name


def test_a_field_that_changes_nothing_is_no_reason_to_refuse() -> None:
    neutral = {
        "sliding_window": 4096,
        "use_sliding_window": False,
        "logit_scale": 1.0,
        "no_rope_layers": [],
        "final_logit_softcapping": None,
        "is_causal": True,
        "layer_types": [FULL] * 6,
        "router_jitter_noise": 0.1,
    }
    assert read("LlamaForCausalLM", **neutral) == read("LlamaForCausalLM")
    hub = {"num_experts": 8, "num_local_experts": 8, "norm_topk_prob": True}
    assert read("Qwen3MoeForCausalLM", **hub) == read("Qwen3MoeForCausalLM", num_experts=8, norm_topk_prob=True)


def test_the_longest_sequence_is_what_the_scaling_is_for() -> None:
    def longest(**rope: Any) -> tuple[int, bool]:
        fields = {"rope_parameters": {"rope_theta": 1e4, **rope}} if rope else {}
        found = read("LlamaForCausalLM", max_position_embeddings=100, **fields).longest
        return found.num_tokens, found.may_be_raised

    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    assert longest() == longest(rope_type="linear", factor=4.0) == (100, False)
    assert longest(rope_type="yarn", factor=4.0) == (400, False)
    assert longest(rope_type="yarn", factor=4.0, original_max_position_embeddings=20) == (100, False)
    assert longest(rope_type="dynamic", factor=4.0) == (100, True)
    assert longest(rope_type="longrope", original_max_position_embeddings=20, **factors) == (100, False)
    assert longest(rope_type="longrope", original_max_position_embeddings=100, **factors) == (100, False)


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
        {"rope_parameters": {FULL: {"rope_type": "axial"}, SLIDING: {}}},
        ("rope_parameters: full_attention", "'axial'", "linear"),
    ),
    "a factor of nothing": (
        "Gemma3",
        {"rope_scaling": {"rope_type": "linear", "factor": 0}},
        ("rope_scaling", "factor", "above 0"),
    ),
    "windows that are switched off": (
        "Qwen2",
        {"layer_types": [SLIDING] * 6, "sliding_window": 8, "use_sliding_window": False},
        ("sliding_window", "use_sliding_window", SLIDING),
    ),
    "windows that are null": ("Cohere2", {"sliding_window": None}, ("sliding_window", "null", SLIDING)),
    "kinds of layers that are alike": ("Qwen3Moe", {"layer_types": [SLIDING] * 6}, ("layer_types", "alike", FULL)),
    "more experts than there are": ("Mixtral", {"num_local_experts": 3, "num_experts_per_tok": 4}, ("4", "3")),
    "no expert": ("Mixtral", {"num_local_experts": 0}, ("num_local_experts", "at least 1")),
    "a number of experts below 0": ("Qwen3Moe", {"num_experts": -1}, ("num_experts_per_tok", "-1")),
    "two numbers of experts": ("Qwen3Moe", {"num_experts": 4, "num_local_experts": 8}, ("two names", "[4, 8]")),
    "layers that are no numbers": ("Qwen3Moe", {"mlp_only_layers": ["1"]}, ("mlp_only_layers", "['1']")),
    "every no-th layer sparse": ("Qwen3Moe", {"decoder_sparse_step": 0}, ("decoder_sparse_step", "at least 1")),
    "an activation that no gate has": ("Qwen2", {"hidden_act": "relu"}, ("hidden_act", "'relu'")),
    "a scale of nothing": ("Cohere", {"logit_scale": 0.0}, ("logit_scale", "above 0")),
    "a window that a page does not know": ("Llama", {"sliding_window": 8}, ("sliding_window 8", "architecture")),
    "a cap that a page does not know": ("Qwen3", {"final_logit_softcapping": 30.0}, ("final_logit_softcapping 30.0",)),
    "a scale that a page does not know": ("Llama", {"logit_scale": 0.5}, ("logit_scale 0.5", "set it to null")),
    "layers without positions": ("Qwen2", {"no_rope_layers": [1, 1, 0] * 2}, ("no_rope_layers",)),
    "both directions, to a page that knows one": ("Llama", {"is_causal": False}, ("is_causal False",)),
    "pairs of neighbours": ("Llama", {"rope_interleave": True}, ("rope_interleave True",)),
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


@pytest.mark.parametrize("name", _NEUTRAL)
def test_no_page_passes_over_a_field_that_changes_the_network(name: str) -> None:
    value = False if name == "is_causal" else 7
    for family in ("Llama", "Mixtral", "Phi3"):
        plain = read(f"{family}ForCausalLM")
        with contextlib.suppress(ModelError):
            assert read(f"{family}ForCausalLM", **{name: value}) != plain, (family, name)
