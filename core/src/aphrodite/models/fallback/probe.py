"""Running modules once without weights, to see what they ask of attention."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from aphrodite.errors import AphroditeError, told
from aphrodite.models.fallback.find import Found
from aphrodite.models.fallback.interface import PROBE, MaskTensor, connect, register
from aphrodite.models.fallback.masks import FAR

OWN_ATTENTION = "attention of their own: they do not call Transformers' attention interface"
_TOKENS = 3
# Options of the interface that say nothing about the result, whatever they hold.
_PASSED_ON = frozenset(("cache", "cache_position", "dropout", "labels", "layer_idx", "layer_type", "logits_to_keep"))
_PASSED_ON |= {"num_items_in_batch", "position_embeddings", "position_ids", "return_dict", "use_cache"}
_READ = frozenset(("scaling", "sliding_window", "softcap", "s_aux", "is_causal"))


@dataclass(frozen=True)
class AttentionCall:
    """One call of the attention interface, as every forward pass makes it. The numbers are those of attn_paged@1.

    name   the module's path, with a number behind it where one module calls more than once
    sinks  the module passes a logit for each head that takes weight and gives nothing
    """

    name: str
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False


@dataclass(frozen=True)
class Probed:
    """What a network turned out to be.

    calls    of attention, in order
    tensors  shape of each tensor that a checkpoint may hold, under the name that it has in the modules; tied ones once
    """

    calls: tuple[AttentionCall, ...]
    vocab_size: int
    tensors: Mapping[str, tuple[int, ...]]


def probe(found: Found) -> Probed:
    """Build the modules without memory and run them on three tokens. ModelError names what attention cannot do."""
    register()
    if not _takes(found.model.forward, "position_ids"):
        raise found.refuse("to count positions themselves (their forward takes no position_ids), and cannot be packed")
    model = _without_memory(found)
    tensors = _tensors(model)
    try:
        calls, vocab_size = _run(found, model, torch.device("meta"))
    except _UnfinishedError:  # modules that look at numbers, such as those that sort tokens by their experts
        _fill(model)
        try:
            calls, vocab_size = _run(found, model, torch.device("cpu"))
        except _UnfinishedError as error:
            raise found.refuse(f"what a trial run could not give: {error}") from error.__cause__
    if not calls:
        raise found.refuse(OWN_ATTENTION)
    return Probed(calls, vocab_size, tensors)


@torch.inference_mode()
def run_modules(
    model: torch.nn.Module,
    token_ids: torch.Tensor,
    positions: torch.Tensor | None,
    rows: torch.Tensor | None,
    **more: Any,
) -> torch.Tensor:
    """token_ids, positions [T], packed; rows [R] of them whose logits are wanted -> [R, V]. No cache, no mask.

    positions None: one sequence from its beginning, as the modules count; rows None: all
    """
    selects = rows is not None and _takes(type(model).forward, "logits_to_keep")
    if selects:
        more["logits_to_keep"] = rows
    if positions is not None:
        more["position_ids"] = positions[None]
    logits = model(input_ids=token_ids[None], use_cache=False, return_dict=True, **more).logits[0]
    assert isinstance(logits, torch.Tensor)
    return logits if selects or rows is None else logits[rows]


@functools.cache
def _takes(forward: Callable[..., Any], argument: str) -> bool:
    return argument in inspect.signature(forward).parameters


class _UnfinishedError(Exception):
    """A trial run that ended in an error of the modules' own."""


def _without_memory(found: Found) -> Any:
    config = copy.deepcopy(found.config)
    config._attn_implementation = PROBE
    config._experts_implementation = "batched_mm"  # the one that looks at no numbers
    try:
        with torch.device("meta"):
            return found.model(config).eval()
    except KeyError as error:
        if PROBE in str(error):  # a table of classes by the name of the implementation
            raise found.refuse(OWN_ATTENTION) from error
        raise found.refuse(f"what config.json does not say: {error}") from error
    except Exception as error:
        raise found.refuse(f"what cannot be made: {told(error)}") from error


def _fill(model: torch.nn.Module) -> None:
    """Zeros for all parameters and buffers, in the memory of one each."""
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                zeros = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
                if name in module._parameters:
                    module._parameters[name] = torch.nn.Parameter(zeros, requires_grad=False)
                else:
                    module._buffers[name] = zeros


def _run(found: Found, model: torch.nn.Module, device: torch.device) -> tuple[tuple[AttentionCall, ...], int]:
    recorder = _Recorder(found, {id(module): name for name, module in model.named_modules()})
    ids = torch.zeros(_TOKENS, dtype=torch.int64, device=device)
    mask = torch.ones(1, _TOKENS, dtype=torch.int64, device=device)
    try:
        with connect(model).to(recorder.attend):
            logits = run_modules(model, ids, ids, ids, attention_mask=mask)
    except AphroditeError:
        raise
    except Exception as error:
        raise _UnfinishedError(f"{told(error)}") from error
    return tuple(recorder.calls), int(logits.shape[-1])


class _Recorder:
    """Takes the place of attention and writes down what it is asked for."""

    def __init__(self, found: Found, names: Mapping[int, str]) -> None:
        self._found = found
        self._names = names
        self.calls: list[AttentionCall] = []

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **options: Any,
    ) -> torch.Tensor:
        name = self._names[id(module)]
        try:
            self.calls.append(self._read(name, query, key, value, mask, options))
        except _CannotError as error:
            raise self._found.refuse(f"{error} (at {name})") from None
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])

    def _read(
        self,
        name: str,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: Mapping[str, Any],
    ) -> AttentionCall:
        if query.dim() != 4 or query.shape[0] != 1 or query.shape[2] != _TOKENS:
            raise _CannotError(f"queries {list(query.shape)} that are not a head's vector for each token")
        if key.shape[2] != _TOKENS or value.shape[:3] != key.shape[:3]:
            raise _CannotError(f"attention over other keys {list(key.shape)} than the tokens', such as cross attention")
        if query.shape[1] % key.shape[1] or query.shape[3] != key.shape[3]:
            raise _CannotError(f"queries {list(query.shape)} over keys {list(key.shape)}")
        _refuse_unknown(options)
        window = _window(mask)
        passed = options.get("sliding_window")
        if isinstance(passed, int) and 0 < passed < FAR and window != passed:
            raise _CannotError(f"a sliding_window of {passed} with a mask of window {window}: which of them counts?")
        scale = options.get("scaling")
        taken = sum(call.name.partition("#")[0] == name for call in self.calls)
        return AttentionCall(
            f"{name}#{taken}" if taken else name,
            query.shape[1],
            key.shape[1],
            query.shape[3],
            value.shape[3],
            _number("scaling", query.shape[3] ** -0.5 if scale is None else scale),
            window,
            _number("softcap", options.get("softcap") or 0.0),
            _has_sinks(options.get("s_aux"), query.shape[1]),
        )


class _CannotError(Exception):
    """What a call asks for and paged attention does not do."""


def _window(mask: torch.Tensor | None) -> int:
    if mask is None:
        raise _CannotError("attention without a mask: tokens would see later ones")
    read = mask.read if isinstance(mask, MaskTensor) else None
    if read is None:
        raise _CannotError("masks of their own making")
    if read.why is not None:
        raise _CannotError(read.why)
    return read.window


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name in _PASSED_ON or name in _READ or value is None or value is False:
            continue
        shown = f"tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise _CannotError(f"an attention that knows {name} ({shown})")
    if options.get("dropout"):
        raise _CannotError(f"dropout {options['dropout']} in attention")
    if options.get("is_causal") is False:
        raise _CannotError("bidirectional attention (is_causal is false)")


def _number(name: str, value: Any) -> float:
    """An attribute of attention, which must be the same in every step."""
    if isinstance(value, torch.Tensor) or not math.isfinite(value):
        raise _CannotError(f"a {name} that is no fixed number")
    return float(value)


def _has_sinks(sinks: Any, num_heads: int) -> bool:
    if sinks is None:
        return False
    if not isinstance(sinks, torch.Tensor) or sinks.shape != (num_heads,):
        raise _CannotError(f"s_aux that is not a logit for each of {num_heads} heads")
    return True


def _tensors(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes by name, of what is tied only the first."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
