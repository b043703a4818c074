"""Fields that make another network of the same tensors: a page that does not know one must not pass it over.

Fields that bring tensors with them need no such list: a tensor that nobody asks for is refused when weights are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aphrodite.errors import ModelError
from aphrodite.models.config import HFConfig

_OFF: tuple[object, ...] = (None, False, [])

# By name, the values that change nothing.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "alibi": _OFF,
    "attention_chunk_size": _OFF,
    "attention_multiplier": _OFF,
    "attn_logit_softcapping": _OFF,
    "attn_temperature_tuning": _OFF,
    "clip_qkv": _OFF,
    "embedding_multiplier": (*_OFF, 1),
    "final_logit_softcapping": _OFF,
    "interleaved_sliding_window": _OFF,
    "is_causal": (None, True),
    "logit_scale": (*_OFF, 1),
    "logits_scaling": (*_OFF, 1),
    "n_group": (*_OFF, 1),
    "no_rope_layer_interval": _OFF,
    "no_rope_layers": _OFF,
    "parallel_attn": _OFF,
    "query_pre_attn_scalar": _OFF,
    "residual_multiplier": (*_OFF, 1),
    "rope_interleave": _OFF,
    "rotary_pct": (*_OFF, 1),
    "routed_scaling_factor": (*_OFF, 1),
    "scoring_func": (*_OFF, "softmax"),
    "sliding_window": _OFF,
    "use_bidirectional_attention": _OFF,
    "use_parallel_residual": _OFF,
    "use_sliding_window": _OFF,
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
        if name in read or value in neutral:
            continue
        if name == "sliding_window" and config.data.get("use_sliding_window") is False:
            continue
        raise ModelError(
            f"{config.where}: {name} {value!r} is not supported for this architecture: passed over, it would give "
            "another network's text; set it to null if the model was trained without",
            subject=name,
        )
