"""Fields that make another network of the same tensors: a page that does not know one must not pass it over.

Fields that bring tensors with them need no such list: a tensor that nobody asks for is refused when weights are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aphrodite.errors import ModelError
from aphrodite.models.config import HFConfig

# By name, the values that change nothing; null, false and an empty list never do.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "alibi": (),
    "attention_chunk_size": (),
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "attn_temperature_tuning": (),
    "clip_qkv": (),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (),
    "interleaved_sliding_window": (),
    "is_causal": (True,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "n_group": (1,),
    "no_rope_layer_interval": (),
    "no_rope_layers": (),
    "parallel_attn": (),
    "query_pre_attn_scalar": (),
    "residual_multiplier": (1,),
    "rope_interleave": (),
    "rotary_pct": (1,),
    "routed_scaling_factor": (1,),
    "scoring_func": ("softmax",),
    "sliding_window": (),
    "use_bidirectional_attention": (),
    "use_parallel_residual": (),
    "use_sliding_window": (),
}


class Seen(Mapping[str, Any]):
    """A config's fields that remembers which of them were asked for."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return self._data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


def refuse_unread(config: HFConfig, read: set[str]) -> None:
    """ModelError for a field that changes the network and is not among those that its page has read."""
    for name, neutral in _NEUTRAL.items():
        value = config.data.get(name)
        if name in read or value in (None, False, []) or value in neutral:
            continue
        if name == "sliding_window" and config.data.get("use_sliding_window") is False:
            continue
        raise ModelError(
            f"{config.where}: {name} {value!r} is not supported for this architecture: passed over, it would give "
            "another network's text; set it to null if the model was trained without",
            subject=name,
        )
