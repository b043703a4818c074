"""Command R7B and A: Cohere2ForCausalLM. A Command R whose sliding layers alone are rotated; the full ones see no
positions."""

from __future__ import annotations

from aphrodite.models.cohere import MAX_POSITION, parallel_network
from aphrodite.models.config import HFConfig
from aphrodite.models.family import FULL, SLIDING, attention, layer_kinds, read_heads, require_window
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import DecoderSpec

ARCHITECTURES = ("Cohere2ForCausalLM",)


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Cohere 2 config describes."""
    pattern, window = config.size("sliding_window_pattern", 4), config.bound("sliding_window", int, 4096)
    kinds = layer_kinds(config, lambda number: (number + 1) % pattern != 0)
    require_window(config, kinds, window)
    heads, biased = read_heads(config), config.get("attention_bias", bool, False)
    rope = read_rope(config, heads.head_dim, max_position=MAX_POSITION, style="gptj")
    mixers = {
        SLIDING: attention(heads, rope, window=window, qkv_bias=biased, out_bias=biased),
        FULL: attention(heads, None, qkv_bias=biased, out_bias=biased),
    }
    return parallel_network(config, [mixers[kind] for kind in kinds])
