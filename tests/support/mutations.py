"""Mistakes of the usual kinds, made on purpose: in what a family page reads, and in what a layer records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from aphrodite.models import registry
from aphrodite.models.spec import AttentionSpec, DecoderSpec, LayerSpec
from aphrodite.ops.op import Op
from aphrodite.program.trace import Tracer

Patch = pytest.MonkeyPatch


def change_network(patch: Patch, change: Callable[[DecoderSpec], DecoderSpec]) -> None:
    """Change every network that a page reads."""
    for name, read in dict(registry.FAMILIES).items():
        patch.setitem(registry.FAMILIES, name, lambda config, read=read: change(read(config)))


def network(patch: Patch, **changed: Any) -> None:
    """Change fields of every network."""
    change_network(patch, lambda spec: dataclasses.replace(spec, **changed))


def layers(patch: Patch, change: Callable[[int, LayerSpec], LayerSpec]) -> None:
    """Change each layer, given its number and what it is."""

    def changed(spec: DecoderSpec) -> DecoderSpec:
        made = tuple(change(number, layer) for number, layer in enumerate(spec.layers))
        return dataclasses.replace(spec, layers=made)

    change_network(patch, changed)


def attention(patch: Patch, change: Callable[[int, AttentionSpec], dict[str, Any]]) -> None:
    """Change fields of each layer's attention, given the layer's number and what they are."""

    def changed(number: int, layer: LayerSpec) -> LayerSpec:
        mixer = dataclasses.replace(layer.attention, **change(number, layer.attention))
        return dataclasses.replace(layer, attention=mixer)

    layers(patch, changed)


def calls(patch: Patch, op: str, **changed: Callable[[Any], Any]) -> None:
    """Change arguments of every call of one operation, as it is recorded."""
    original = Tracer.call

    def call(self: Tracer, given: Op, site: str, **args: Any) -> Any:
        if given.name == op:
            args |= {name: change(args.get(name)) for name, change in changed.items()}
        return original(self, given, site, **args)

    patch.setattr(Tracer, "call", call)


def without(patch: Patch, ops: Iterable[str]) -> None:
    """Leave out every call of these operations, which work in place."""
    original, left_out = Tracer.call, set(ops)

    def call(self: Tracer, given: Op, site: str, **args: Any) -> Any:
        return None if given.name in left_out else original(self, given, site, **args)

    patch.setattr(Tracer, "call", call)
