"""StarCoder 2: Starcoder2ForCausalLM. Norms about the mean, biases everywhere, a feed-forward without a gate."""

from __future__ import annotations

from aphrodite.layers.mlp import MLPNames
from aphrodite.layers.norm import LAYER
from aphrodite.models.config import HFConfig
from aphrodite.models.family import activation, alike, attention, network, num_layers, read_heads
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import DecoderSpec, LayerSpec, MLPSpec, Names

ARCHITECTURES = ("Starcoder2ForCausalLM",)
MAX_POSITION = 4096
NAMES = Names(mlp=MLPNames(up="mlp.c_fc", down="mlp.c_proj"))


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a StarCoder 2 config describes. Norms have their biases whatever use_bias says."""
    window = config.bound("sliding_window", int, 0)
    alike(config, window)
    heads, biased = read_heads(config, kv_heads=2), config.get("use_bias", bool, True)
    rope = read_rope(config, heads.head_dim, max_position=MAX_POSITION)
    mixer = attention(heads, rope, window=window, qkv_bias=biased, out_bias=biased)
    act = activation(config, default="gelu_pytorch_tanh", gated=False)
    mlp = MLPSpec(config.size("intermediate_size"), act, bias=biased, gated=False)
    return network(
        config,
        [LayerSpec(mixer, mlp)] * num_layers(config),
        max_position=MAX_POSITION,
        tied=True,
        eps_field="norm_epsilon",
        eps=1e-5,
        norm=LAYER,
        norm_bias=True,
        names=NAMES,
    )
