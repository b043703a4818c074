"""Names of element types, as the contract spells them, and their sizes.

Names rather than torch dtypes cross the contract, so that a device without torch can speak it and that
constraints stay plain data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aphrodite.errors import UsageError

if TYPE_CHECKING:
    import torch

ITEMSIZE = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "u8": 1}
ACTIVATION = ("f32", "f16", "bf16")  # what "A" stands for in a schema; f64 joins it for the reference alone

_TORCH = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i64": "int64",
    "i32": "int32",
    "u8": "uint8",
}
_LONG = {long: short for short, long in _TORCH.items()} | {"half": "f16", "float": "f32"}


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a contract name ("bf16" -> torch.bfloat16)."""
    import torch

    dtype = getattr(torch, _TORCH[name])
    assert isinstance(dtype, torch.dtype)
    return dtype


def name_of(dtype: torch.dtype) -> str:
    """The contract name of a torch dtype (torch.bfloat16 -> "bf16")."""
    return _LONG[str(dtype).removeprefix("torch.")]


def parse(text: str) -> str:
    """The contract name of what users and config.json write: "bfloat16", "torch.float16", "half", "f32"."""
    plain = text.removeprefix("torch.")
    if plain in ITEMSIZE:
        return plain
    if plain in _LONG:
        return _LONG[plain]
    legal = ", ".join(_TORCH[name] for name in ACTIVATION)
    raise UsageError(f"dtype must be one of {legal}, got {text!r}", subject="dtype")
