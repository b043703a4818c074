"""Qwen 2 and 2.5: Qwen2ForCausalLM. A Llama with biases on q, k and v, and a window in the upper layers if asked for.
Qwen 3 shares `windows` and `read_qwen` with it."""

from __future__ import annotations

from typing import Any

from aphrodite.layers.attention import Heads
from aphrodite.models.config import HFConfig
from aphrodite.models.family import SLIDING, activation, attention, layer_kinds, network, read_heads, require_window
from aphrodite.models.rope import read_rope
from aphrodite.models.spec import DecoderSpec, LayerSpec, MLPSpec

ARCHITECTURES = ("Qwen2ForCausalLM",)
MAX_POSITION = 32768


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Qwen 2 config describes; the checkpoint's names are DecoderSpec's defaults."""
    return read_qwen(config, read_heads(config, kv_heads=32), qkv_bias=True)


def read_qwen(config: HFConfig, heads: Heads, **more: Any) -> DecoderSpec:
    """A Qwen without experts; `more` are fields of its attention."""
    rope = read_rope(config, heads.head_dim, max_position=MAX_POSITION)
    mlp = MLPSpec(config.size("intermediate_size"), activation(config))
    layers = [LayerSpec(attention(heads, rope, window=window, **more), mlp) for window in windows(config)]
    return network(config, layers, max_position=MAX_POSITION)


def read_window(config: HFConfig) -> int:
    """The window, 0 unless use_sliding_window asks for it."""
    used = config.get("use_sliding_window", bool, False)
    return config.bound("sliding_window", int, 4096) if used else 0


def windows(config: HFConfig) -> list[int]:
    """The window of each layer: layer_types says which have one, or else those from max_window_layers on."""
    window, first = read_window(config), config.get("max_window_layers", int, 28)
    kinds = layer_kinds(config, lambda number: bool(window) and number >= first)
    require_window(config, kinds, window)
    return [window if kind == SLIDING else 0 for kind in kinds]
