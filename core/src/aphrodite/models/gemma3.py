"""Gemma 3, text: Gemma3ForCausalLM. A Gemma 2 with normalised q and k in place of the cap, and two rope bases."""

from __future__ import annotations

from aphrodite.models.config import HFConfig
from aphrodite.models.family import FULL, SLIDING, layer_kinds, refuse
from aphrodite.models.gemma2 import gemma, gemma_heads, read_attention
from aphrodite.models.rope import read_layer_ropes
from aphrodite.models.spec import DecoderSpec

ARCHITECTURES = ("Gemma3ForCausalLM",)
MAX_POSITION = 131072


def spec(config: HFConfig) -> DecoderSpec:
    """The network that a Gemma 3 text config describes."""
    refuse(config, "attn_logit_softcapping", "Gemma 3 does not cap attention")
    pattern, heads = config.size("sliding_window_pattern", 6), gemma_heads(config)
    kinds = layer_kinds(config, lambda number: (number + 1) % pattern != 0)
    bases = {FULL: ("rope_theta", 1_000_000.0), SLIDING: ("rope_local_base_freq", 10_000.0)}
    ropes = read_layer_ropes(config, heads.head_dim, bases, scaled=FULL, max_position=MAX_POSITION)
    mixers = {kind: read_attention(config, kind, heads, ropes[kind], qk_norm=True) for kind in dict.fromkeys(kinds)}
    return gemma(config, kinds, mixers, MAX_POSITION, config.bound("final_logit_softcapping", float, 0.0))
