"""The parity test of a family is worth something: each field of its config, passed over, breaks it, and so do mistakes
in the layers that fields choose.

They run on the core's own platform. A refusal is as good as a difference: what must not be is another network's text.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from aphrodite.errors import CheckpointError, ModelError
from aphrodite.layers.moe import Experts
from aphrodite.models import registry
from aphrodite.models.config import HFConfig
from aphrodite.models.layer import DecoderLayer
from aphrodite.models.spec import DecoderSpec
from aphrodite.ops.op import Op
from aphrodite.program.trace import Tracer
from tests.models.test_experts_parity import MIXTRAL, QWEN
from tests.models.test_families_parity import COHERE, COHERE2, PHI3, QWEN2, QWEN3, STARCODER2
from tests.models.test_rope_parity import YARN, longrope
from tests.support.checkpoints import Checkpoints
from tests.support.engines import engine
from tests.support.mutations import Patch, attention, calls, change_network, layers, network, without
from tests.support.parity import ParityError, check_parity, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]
BASE = {"rope_parameters": {"rope_type": "default", "rope_theta": 2e3}}
PARTIAL = {"rope_type": "default", "rope_theta": 2e3, "partial_rotary_factor": 0.75}
UNUSUAL = ["sliding_attention", "full_attention", "sliding_attention"]
BROKEN = (ParityError, CheckpointError, ModelError)

# Every field that a page reads has another value than the one that it takes where the field is absent.
SUBJECTS: dict[str, dict[str, Any]] = {
    "qwen2": {
        **QWEN2,
        **BASE,
        "layer_types": UNUSUAL,
        "rms_norm_eps": 1e-2,
        "hidden_act": "gelu",
        "tie_word_embeddings": True,
    },
    "qwen2, older field": {**QWEN2, "without": ("layer_types",)},
    "qwen3": {**QWEN3, **BASE, "layer_types": UNUSUAL, "attention_bias": True},
    "qwen3_moe": {**QWEN, **BASE, "num_local_experts": 4, "use_sliding_window": True, "sliding_window": 11},
    "qwen3_moe, every second": {**QWEN, "mlp_only_layers": None, "decoder_sparse_step": 2},
    "mixtral": {**MIXTRAL, **BASE, "num_experts_per_tok": 3, "rms_norm_eps": 1e-2, "hidden_act": "gelu"},
    "phi3": {**PHI3, "rms_norm_eps": 1e-2, "rope_parameters": PARTIAL, "without": ("partial_rotary_factor",)},
    "starcoder2": {**STARCODER2, **BASE, "hidden_act": "silu", "tie_word_embeddings": False},
    "starcoder2, no biases": {"family": "starcoder2", "use_bias": False},
    "cohere": {**COHERE, **BASE, "hidden_act": "gelu", "attention_bias": True, "head_dim": 20},
    "cohere2": {**COHERE2, **BASE, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "yarn": {
        "family": "qwen2",
        "rope_parameters": {**YARN, "beta_fast": 3.0, "beta_slow": 1.5, "truncate": False, "attention_factor": 0.7},
    },
    "yarn, both mscales": {"family": "qwen2", "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.9}},
    "longrope": {
        "family": "phi3",
        "partial_rotary_factor": 0.75,
        "rope_parameters": longrope(12, factor=3.0, partial_rotary_factor=0.75),
        "original_max_position_embeddings": 300,
        "without": ("partial_rotary_factor",),
    },
}
FIELDS: Mapping[str, tuple[str, ...]] = {
    "qwen2": (
        "use_sliding_window", "sliding_window", "layer_types", "rms_norm_eps", "hidden_act", "tie_word_embeddings",
        "num_key_value_heads", "rope_parameters.rope_theta",
    ),
    "qwen2, older field": ("max_window_layers", "use_sliding_window", "sliding_window"),
    "qwen3": ("head_dim", "attention_bias", "layer_types", "sliding_window", "rope_parameters.rope_theta"),
    "qwen3_moe": (
        "mlp_only_layers", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob",
        "use_sliding_window", "sliding_window", "intermediate_size",
    ),
    "qwen3_moe, every second": ("decoder_sparse_step", "num_experts_per_tok"),
    "mixtral": (
        "sliding_window", "num_local_experts", "num_experts_per_tok", "rms_norm_eps", "hidden_act",
        "rope_parameters.rope_theta",
    ),
    "phi3": ("sliding_window", "rms_norm_eps", "rope_parameters.partial_rotary_factor"),
    "starcoder2": ("sliding_window", "norm_epsilon", "hidden_act", "tie_word_embeddings", "rope_parameters.rope_theta"),
    "starcoder2, no biases": ("use_bias",),
    "cohere": (
        "use_qk_norm", "logit_scale", "layer_norm_eps", "hidden_act", "attention_bias", "head_dim",
        "rope_parameters.rope_theta",
    ),
    "cohere2": ("layer_types", "sliding_window", "logit_scale", "rope_parameters.rope_theta"),
    "yarn": (
        "rope_parameters.rope_type", "rope_parameters.factor", "rope_parameters.original_max_position_embeddings",
        "rope_parameters.beta_fast", "rope_parameters.beta_slow", "rope_parameters.truncate",
        "rope_parameters.attention_factor",
    ),
    "yarn, both mscales": ("rope_parameters.mscale", "rope_parameters.mscale_all_dim"),
    "longrope": (
        "rope_parameters.rope_type", "rope_parameters.factor", "rope_parameters.partial_rotary_factor",
        "rope_parameters.short_factor",
    ),
}  # fmt: skip


def run(name: str, checkpoints: Checkpoints, reference: Load) -> None:
    folder = checkpoints.make(**SUBJECTS[name])
    with engine(folder, "cpu", cache_tokens=640, plugins="none", max_model_len=200) as llm:
        check_parity(llm, reference(folder), random_prompts((1, 2, 17, 40), seed=1), num_tokens=3)


def pass_over(patch: Patch, field: str) -> None:
    """Every page reads its config as if the field ("name", or "name.inner") were not there."""

    def left_out(config: HFConfig) -> HFConfig:
        data = copy.deepcopy(dict(config.data))
        *outer, name = field.split(".")
        holder = data[outer[0]] if outer else data
        assert name in holder, f"the config has no {field}"
        del holder[name]
        return HFConfig(data, config.where)

    for name, read in dict(registry.FAMILIES).items():
        patch.setitem(registry.FAMILIES, name, lambda config, read=read: read(left_out(config)))


@pytest.mark.parametrize("name", SUBJECTS)
def test_nothing_changed_passes(name: str, checkpoints: Checkpoints, reference: Load) -> None:
    run(name, checkpoints, reference)


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in FIELDS.items() for field in fields])
def test_a_field_passed_over_breaks_parity_or_is_refused(
    name: str, field: str, checkpoints: Checkpoints, reference: Load, monkeypatch: Patch
) -> None:
    pass_over(monkeypatch, field)
    with pytest.raises(BROKEN) as caught:
        run(name, checkpoints, reference)
    print(caught.value)


# ---- layers ---------------------------------------------------------------------------------------------------------


def window_one_more(patch: Patch) -> None:
    attention(patch, lambda _, a: {"window": a.window + 1 if a.window else 0})


def window_one_less(patch: Patch) -> None:
    attention(patch, lambda _, a: {"window": a.window - 1 if a.window else 0})


def window_of_one_layer_forgotten(patch: Patch) -> None:
    attention(patch, lambda number, a: {"window": 0 if number == 2 else a.window})


def bias_forgotten(patch: Patch) -> None:
    calls(patch, "linear@1", bias=lambda _: None)


def norm_bias_forgotten(patch: Patch) -> None:
    calls(patch, "layer_norm@1", b=lambda _: None)


def heads_not_normalised(patch: Patch) -> None:
    without(patch, ("head_norm@1", "head_layer_norm@1"))


def activation_forgotten(patch: Patch) -> None:
    without(patch, ("act@1",))


def another_gelu(patch: Patch) -> None:
    calls(patch, "act_mul@1", kind=lambda _: "gelu_tanh")


def norm_of_the_other_kind(patch: Patch) -> None:
    original = Tracer.call

    def call(self: Tracer, given: Op, site: str, **args: Any) -> Any:
        if given.name == "layer_norm@1":
            from aphrodite.ops.norm import rms_norm

            args.pop("b")
            return original(self, rms_norm, site, **args)
        return original(self, given, site, **args)

    patch.setattr(Tracer, "call", call)


def halves_in_place_of_neighbours(patch: Patch) -> None:
    attention(patch, lambda _, a: {"rope": dataclasses.replace(a.rope, style="neox") if a.rope else None})


def positions_in_every_layer(patch: Patch) -> None:
    def changed(spec: DecoderSpec) -> DecoderSpec:
        rope = next(layer.attention.rope for layer in spec.layers if layer.attention.rope)
        made = [
            dataclasses.replace(one, attention=dataclasses.replace(one.attention, rope=rope)) for one in spec.layers
        ]
        return dataclasses.replace(spec, layers=tuple(made))

    change_network(patch, changed)


def positions_in_no_layer(patch: Patch) -> None:
    attention(patch, lambda _, a: {"rope": None})


def logits_not_scaled(patch: Patch) -> None:
    network(patch, logit_scale=1.0)


def attention_not_added(patch: Patch) -> None:
    """What a parallel layer's attention gives is dropped."""
    original = Tracer.call

    def call(self: Tracer, given: Op, site: str, **args: Any) -> Any:
        return None if given.name == "add@1" and site == "layers.0.add" else original(self, given, site, **args)

    patch.setattr(Tracer, "call", call)


def feed_forward_behind_attention(patch: Patch) -> None:
    """A parallel layer's feed-forward reads the residual that attention has been added to."""
    original = DecoderLayer.__call__

    def call(self: DecoderLayer, *args: Any) -> Any:
        return original(dataclasses.replace(self, mlp_norm=self.mlp_norm or self.attention_norm), *args)

    patch.setattr(DecoderLayer, "__call__", call)


def routed(patch: Patch, **changed: Any) -> None:
    """Change how experts are chosen."""

    def change(_: int, layer: Any) -> Any:
        if layer.mlp.experts is None:
            return layer
        experts = dataclasses.replace(layer.mlp.experts, **changed)
        return dataclasses.replace(layer, mlp=dataclasses.replace(layer.mlp, experts=experts))

    layers(patch, change)


def one_expert_too_few(patch: Patch) -> None:
    routed(patch, top_k=1)


def weights_not_renormalised(patch: Patch) -> None:
    routed(patch, renorm=False)


def each_experts_score_alone(patch: Patch) -> None:
    routed(patch, scoring="sigmoid")


def gate_and_up_exchanged(patch: Patch) -> None:
    def changed(spec: DecoderSpec) -> DecoderSpec:
        names = spec.names.experts
        other = dataclasses.replace(names, gate=names.up, up=names.gate)
        return dataclasses.replace(spec, names=dataclasses.replace(spec.names, experts=other))

    change_network(patch, changed)


def experts_one_place_on(patch: Patch) -> None:
    calls(patch, "moe_experts@1", first=lambda _: 1)


def expert_weights_forgotten(patch: Patch) -> None:
    original = Experts.__call__

    def call(self: Experts, t: Tracer, x: Any) -> Any:
        y = original(self, t, x)
        t.call(scale, f"{self.site}.mutated", x=y, factor=1.1)
        return y

    from aphrodite.ops.elementwise import scale

    patch.setattr(Experts, "__call__", call)


_WINDOWS = (window_one_more, window_one_less)
MUTATIONS: Mapping[str, tuple[Callable[[Patch], None], ...]] = {
    "qwen2": (*_WINDOWS, window_of_one_layer_forgotten, bias_forgotten, another_gelu),
    "qwen3": (heads_not_normalised, bias_forgotten),
    "mixtral": (
        *_WINDOWS,
        one_expert_too_few,
        weights_not_renormalised,
        each_experts_score_alone,
        gate_and_up_exchanged,
        experts_one_place_on,
        expert_weights_forgotten,
    ),
    "qwen3_moe": (*_WINDOWS, heads_not_normalised, gate_and_up_exchanged),
    "starcoder2": (*_WINDOWS, bias_forgotten, norm_bias_forgotten, activation_forgotten, norm_of_the_other_kind),
    "cohere": (
        heads_not_normalised,
        halves_in_place_of_neighbours,
        logits_not_scaled,
        attention_not_added,
        feed_forward_behind_attention,
        norm_of_the_other_kind,
    ),
    "cohere2": (*_WINDOWS, positions_in_every_layer, positions_in_no_layer, halves_in_place_of_neighbours),
}


@pytest.mark.parametrize(
    ("name", "mutate"),
    [(name, one) for name, some in MUTATIONS.items() for one in some],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_mutation_breaks_parity(
    name: str, mutate: Callable[[Patch], None], checkpoints: Checkpoints, reference: Load, monkeypatch: Patch
) -> None:
    mutate(monkeypatch)
    with pytest.raises(ParityError) as caught:
        run(name, checkpoints, reference)
    print(caught.value)
