"""Gemma 3, text: Gemma3ForCausalLM. A Gemma 2 with normalised q and k in place of the cap, and two rope bases."""

from __future__ import annotations

from aphrodite.models.config import HFConfig
from aphrodite.models.family import FULL, SLIDING, head_dim, layer_kinds, refuse
from aphrodite.models.gemma2 import HEAD_DIM, network, read_attention
from aphrodite.models.rope import read_layer_ropes
from aphrodite.models.spec import DecoderSpec

ARCHITECTURES = ("Gemma3ForCausalLM",)


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Gemma 3 text config describes."""
    refuse(config, "attn_logit_softcapping", "Gemma 3 does not cap attention")
    kinds = layer_kinds(config, pattern=config.size("sliding_window_pattern", 6))
    dim = head_dim(config, config.size("num_attention_heads"), HEAD_DIM)
    bases = {FULL: ("rope_theta", 1_000_000.0), SLIDING: ("rope_local_base_freq", 10_000.0)}
    ropes = read_layer_ropes(config, dim, bases, scaled=FULL)
    attention = {kind: read_attention(config, kind, ropes[kind], qk_norm=True) for kind in dict.fromkeys(kinds)}
    return network(config, kinds, attention, 131072, config.bound("final_logit_softcapping", float, 0.0))
