"""The contract for plugin authors: everything a plugin may import of Aphrodite is here, and nothing else is.

docs/plugins.md shows how to write one; docs/contract.md, generated from this module, lists every name and operation.
Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aphrodite.discovery.hooks import CONTRACT, hookimpl
from aphrodite.discovery.registry import PlatformFactory, Registrar
from aphrodite.errors import (
    AphroditeError,
    CapacityError,
    DeviceError,
    KernelError,
    PluginError,
    ShapeError,
    UsageError,
)
from aphrodite.ops.composite import Composite
from aphrodite.ops.constraints import C, Clause, Facts, between, ge, multiple, one_of
from aphrodite.ops.kernel import (
    NATIVE,
    PORTABLE,
    SPECIALISED,
    Binding,
    Dims,
    Extent,
    Flag,
    Kernel,
    Run,
    Workspace,
)
from aphrodite.ops.op import Example, Op, Tolerance
from aphrodite.platform.dtypes import ITEMSIZE, torch_dtype
from aphrodite.platform.host_memory import host_memory
from aphrodite.platform.layout import (
    HND,
    LATENT,
    NHD,
    PLAIN,
    DeviceTensor,
    KVLayout,
    KVView,
    Packed,
    Piece,
    RowField,
    Rows,
    Structure,
    WeightLayout,
)
from aphrodite.platform.spi import (
    Arena,
    Collectives,
    Compiler,
    Device,
    DeviceInfo,
    Event,
    Forms,
    Graphs,
    Limits,
    Memory,
    MemoryInfo,
    Platform,
    Replay,
    Stream,
    Unavailable,
)

if TYPE_CHECKING:
    from aphrodite.platform.torch_platform import TorchDevice, TorchForms, TorchMemory, TorchPlatform

__all__ = [
    "CONTRACT",
    "HND",
    "ITEMSIZE",
    "LATENT",
    "NATIVE",
    "NHD",
    "PLAIN",
    "PORTABLE",
    "SPECIALISED",
    "AphroditeError",
    "Arena",
    "Binding",
    "C",
    "CapacityError",
    "Clause",
    "Collectives",
    "Compiler",
    "Composite",
    "Device",
    "DeviceError",
    "DeviceInfo",
    "DeviceTensor",
    "Dims",
    "Event",
    "Example",
    "Extent",
    "Facts",
    "Flag",
    "Forms",
    "Graphs",
    "KVLayout",
    "KVView",
    "Kernel",
    "KernelError",
    "Limits",
    "Memory",
    "MemoryInfo",
    "Op",
    "Packed",
    "Piece",
    "Platform",
    "PlatformFactory",
    "PluginError",
    "Registrar",
    "Replay",
    "RowField",
    "Rows",
    "Run",
    "ShapeError",
    "Stream",
    "Structure",
    "Tolerance",
    "TorchDevice",
    "TorchForms",
    "TorchMemory",
    "TorchPlatform",
    "Unavailable",
    "UsageError",
    "WeightLayout",
    "Workspace",
    "between",
    "composites",
    "ge",
    "hookimpl",
    "host_memory",
    "multiple",
    "one_of",
    "operations",
    "torch_dtype",
]

_TORCH = ("TorchDevice", "TorchForms", "TorchMemory", "TorchPlatform")

if not TYPE_CHECKING:  # or a type checker would believe that every name exists

    def __getattr__(name: str) -> Any:
        """The default Platform and its parts import torch, so they are loaded when first named."""
        if name not in _TORCH:
            raise AttributeError(f"module 'aphrodite.plugin' has no attribute {name!r}")
        from aphrodite.platform import torch_platform

        return getattr(torch_platform, name)


def operations() -> Mapping[str, Op]:
    """Every operation of this core by name, with its reference, portable form and examples. Imports torch."""
    from aphrodite.ops.table import OPS

    return OPS


def composites() -> Mapping[str, Composite]:
    """Every composite of this core by name. Imports torch."""
    from aphrodite.ops.table import COMPOSITES

    return COMPOSITES
