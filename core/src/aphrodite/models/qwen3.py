"""Qwen 3: Qwen3ForCausalLM. A Qwen 2 with normalised q and k, and biases only if asked for."""

from __future__ import annotations

from aphrodite.models.config import HFConfig
from aphrodite.models.family import read_heads
from aphrodite.models.qwen2 import read_qwen
from aphrodite.models.spec import DecoderSpec

ARCHITECTURES = ("Qwen3ForCausalLM",)


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Qwen 3 config describes; the checkpoint's names are DecoderSpec's defaults."""
    biased = config.get("attention_bias", bool, False)
    heads = read_heads(config, kv_heads=32, head_dim=128)
    return read_qwen(config, heads, qk_norm=True, qkv_bias=biased, out_bias=biased)
