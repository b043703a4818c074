"""Which of Transformers' classes runs a config; or why none does, by name, before any module is made."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aphrodite.errors import ModelError, told
from aphrodite.layers.rope import Longest
from aphrodite.models.config import HFConfig
from aphrodite.models.fallback.quiet import quiet

# Fields of config.json that steer how Transformers runs a model, not what it is: here the engine says that.
_STEERING = (
    "attn_implementation",
    "experts_implementation",
    "fusion_config",
    "kernel_config",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "torchscript",
    "transformers_weights",
    "use_cache",
    "use_kernels",
)
_RECURRENT = ("conv", "delta", "linear", "lightning", "mamba", "recurrent", "rwkv", "ssm")
STATE = "recurrent state beside the keys and values of attention"
# Whether a token's angles follow from its position alone, or up to some length only, and what that length is.
_RUNS = ("AutoConfig", "AutoModel")  # entries of auto_map that stand for the model's own code
_MOST_SHOWN = 500
_MOST_LAYERS = 512
_STATIC_ROPE = ("default", "linear", "llama3", "proportional", "yarn")
_MOVING_ROPE = {
    "dynamic": "where the dynamic scaling begins to turn all keys of a sequence",
    "longrope": "longrope's original length: a longer sequence has other keys throughout",
}


@dataclass(frozen=True)
class Found:
    """A class of Transformers and its config, for an architecture that has no page."""

    architecture: str
    model: type[Any]
    config: Any
    version: str
    where: str

    @property
    def text_config(self) -> Any:
        """The part of the config that describes the decoder."""
        return self.config.get_text_config(decoder=True)

    def refuse(self, what: str) -> ModelError:
        """The error that says what this network would need."""
        return _refusal(self.where, self.architecture, self.version, what)


def find(config: HFConfig, architecture: str, pages: str) -> Found:
    """The class for an architecture. ModelError names what is missing.

    pages  architectures that have a page, for the message
    """
    alone = f"{config.where}: architecture {architecture} is not supported: it has no page ({pages} have)"
    if remote := _remote_code(config.data):
        raise ModelError(
            f"{alone}, and its model code is in the checkpoint ({remote}), which is never run: there is no "
            "trust_remote_code here. Where Transformers has this architecture itself, remove auto_map from config.json",
            subject="auto_map",
        )
    try:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError as error:
        raise ModelError(
            f'{alone}. Transformers may run it: pip install "aphrodite-core[hf]" ({error})', subject=architecture
        ) from error
    version = transformers.__version__
    if int(version.partition(".")[0]) < 5:
        raise ModelError(
            f"{alone}. Transformers may run it, from version 5 on, and {version} is installed: pip install "
            '"aphrodite-core[hf]"',
            subject=architecture,
        )
    kind = config.get("model_type", str, "")
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            f"{alone}, and Transformers {version} has no model_type {kind!r}: is there a newer version that has?",
            subject=architecture,
        )
    model = getattr(transformers, architecture, None)
    if getattr(model, "_is_stateful", False):  # before the config, which may ask for packages of its own
        raise _refusal(config.where, architecture, version, STATE)
    read = _read(CONFIG_MAPPING[kind], config, alone)
    if getattr(read, "is_encoder_decoder", False):
        raise _refusal(config.where, architecture, version, "an encoder beside the decoder, and cross attention")
    listed: str | tuple[str, ...] = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, ())
    names = (listed,) if isinstance(listed, str) else listed
    if model is None or architecture not in names:
        has = f"for model_type {kind!r} it has {', '.join(names)}" if names else f"it has none for model_type {kind!r}"
        raise ModelError(
            f"{alone}, and Transformers {version} does not count it among its decoders that give the logits of a next "
            f"token: {has}",
            subject=architecture,
        )
    found = Found(architecture, model, read, version, config.where)
    _refuse_known(found)
    return found


def longest(found: Found) -> Longest:
    """The longest sequence. ModelError for a rope whose angles change in a way that nobody here knows.

    Where angles follow from the length of a sequence as well as from positions, no sequence may become so long.
    """
    config = found.text_config
    count = getattr(config, "max_position_embeddings", None)
    if type(count) is not int or count < 1:
        raise found.refuse(f"a max_position_embeddings in config.json that is at least 1, got {count!r}")
    bounds = [Longest(count, "the model's max_position_embeddings")]
    for rope in _ropes(getattr(config, "rope_parameters", None)):
        kind = rope.get("rope_type") or rope.get("type") or "default"
        if kind in _MOVING_ROPE:
            bounds.append(
                Longest(min(rope.get("original_max_position_embeddings") or count, count), _MOVING_ROPE[kind])
            )
        elif kind not in _STATIC_ROPE:
            raise found.refuse(f"rope_type {kind!r}; known here are {', '.join((*_STATIC_ROPE, *_MOVING_ROPE))}")
    return min(bounds, key=lambda one: one.num_tokens)


def _refusal(where: str, architecture: str, version: str, what: str) -> ModelError:
    return ModelError(
        f"{where}: {architecture} cannot run: it has no page of its own here, and Transformers' modules of it (version "
        f"{version}) need {what}",
        subject=architecture,
    )


def _remote_code(data: Mapping[str, Any]) -> str:
    """The checkpoint's own code that config.json asks for, in its parts too, or ""."""
    asked: list[str] = []
    parts = [("", data)]
    for where, part in parts:  # it grows: a config may be nested deeper than calls may be
        for name, value in part.items():
            if not isinstance(value, Mapping):
                continue
            if name != "auto_map":
                parts.append((f"{where}{name}.", value))
                continue
            asked += [f"{where}{kind}: {code}" for kind, code in value.items() if kind.startswith(_RUNS)]
    return ", ".join(asked)[:_MOST_SHOWN]


def _read(kind: type[Any], config: HFConfig, alone: str) -> Any:
    data = {
        name: value
        for name, value in config.data.items()
        if name not in _STEERING and not name.startswith(("_attn_implementation", "_experts_implementation"))
    }
    try:
        with quiet():
            return kind.from_dict(copy.deepcopy(data))
    except Exception as error:  # whatever its validation raises
        raise ModelError(
            f"{alone}, and Transformers cannot read its config: {told(error)}", subject="config.json"
        ) from error


def _refuse_known(found: Found) -> None:
    """ModelError for what a config itself says that paged attention does not do, or that no network is."""
    config = found.text_config
    layers = getattr(config, "num_hidden_layers", 1)
    if type(layers) is not int or not 1 <= layers <= _MOST_LAYERS:  # the modules of each are made, and tried
        raise found.refuse(f"1 to {_MOST_LAYERS} layers, and config.json has {layers!r}")
    if getattr(config, "add_cross_attention", False):
        raise found.refuse("cross attention (add_cross_attention)")
    if _has_alibi(config):
        raise found.refuse("ALiBi: scores that a bias by distance is added to")
    for kind in getattr(config, "layer_types", None) or ():
        if isinstance(kind, str) and any(word in kind for word in _RECURRENT):
            raise found.refuse(f"{STATE} (layer_types has {kind!r})")
        if isinstance(kind, str) and "chunk" in kind:
            raise found.refuse(f"chunked attention (layer_types has {kind!r}); masks may be causal or sliding")


def _has_alibi(config: Any) -> bool:
    attention = getattr(config, "attn_config", None)
    return bool(
        getattr(config, "alibi", False)
        or getattr(attention, "alibi", False)
        or str(getattr(config, "position_embedding_type", "")).lower() == "alibi"
        or getattr(config, "model_type", "") == "bloom"  # which has nothing else, and so no field
    )


def _ropes(given: Any) -> list[Mapping[str, Any]]:
    """The ropes of a config, whether it has one or one for each kind of layer."""
    if not isinstance(given, Mapping):
        return []
    inner = [value for value in given.values() if isinstance(value, Mapping)]
    return inner or [given]
