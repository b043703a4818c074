"""Our side of Transformers' attention interface: what its modules call instead of attention and masks of their own.

The two functions that stand in Transformers' registries keep nothing: they find the network, and so its engine, through
the module that calls. Engines of one process never meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from aphrodite.models.fallback.masks import Mask, read_mask

NAME = "aphrodite"  # no mask is made for it
PROBE = "aphrodite_probe"  # masks are read for it


class Attend(Protocol):
    """Attention of one call of the interface.

    query [1, H, T, D], key [1, Hk, T, D], value [1, Hk, T, Dv] -> [1, T, H, Dv]
    mask     what the module passes on as a mask
    options  whatever else it passes, by name
    """

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **options: Any,
    ) -> torch.Tensor: ...


class Line:
    """Connects the modules of one network with whoever does their attention at the moment."""

    def __init__(self) -> None:
        self._attend: Attend | None = None

    @contextmanager
    def to(self, attend: Attend) -> Iterator[None]:
        """Calls go to `attend` inside the block."""
        self._attend = attend
        try:
            yield
        finally:
            self._attend = None

    @property
    def attend(self) -> Attend:
        """Who does attention now."""
        assert self._attend is not None, "modules run outside of a step"
        return self._attend


@dataclass(frozen=True)
class LoadedModel:
    """Modules with weights on a device, and the line that their attention goes through."""

    model: torch.nn.Module
    line: Line


def connect(model: torch.nn.Module) -> Line:
    """A line that the attention of all modules of this network goes through from now on."""
    line = Line()
    for module in model.modules():
        module.__dict__["aphrodite_line"] = line  # no parameter, buffer or module of theirs
    return line


def register() -> None:
    """Make both names known to Transformers; any number of times."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionInterface.register(PROBE, _attend)
    AttentionMaskInterface.register(PROBE, _describe_mask)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    line: Line = module.__dict__["aphrodite_line"]
    return line.attend(module, query, key, value, attention_mask, **options), None


class MaskTensor(torch.Tensor):
    """A tensor that stands for a mask, and what that mask is. Whatever a module makes of it is no such thing."""

    read: Mask | None = None

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def _describe_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    device: Any = None,
    config: Any = None,
    **_: Any,
) -> torch.Tensor:
    mask = torch.ones(batch_size, 1, q_length, kv_length, dtype=torch.bool, device=device).as_subclass(MaskTensor)
    mask.read = read_mask(mask_function)
    return mask
