"""The header of a safetensors file: what is in it is from strangers, and checked before a byte of it is believed.

[ length, 8 bytes, little endian | JSON: {tensor: {dtype, shape, data_offsets}} | data, without holes ]

The library decides whether it is sound. It does not always say which tensor is at fault, so that is found out here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from aphrodite.errors import CheckpointError
from aphrodite.files import require_regular

_MAX_BYTES = 32 << 20  # the library's own limit is three times that
_MAX_TENSORS = 1 << 16  # of one file
_MOST_AXES = 16
_SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


def read_header(path: Path) -> list[tuple[str, dict[str, Any], int]]:
    """(tensor, its entry, where the data begins) of each tensor. CheckpointError names the file, and the tensor that is
    at fault if there is one."""
    try:
        found = path.stat()
        require_regular(found)
        num_bytes = found.st_size
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(_MAX_BYTES, num_bytes):
                raise _unsound(path, f"its header has {size} bytes, of at most {min(_MAX_BYTES, num_bytes)}")
            text = file.read(size)
        if (count := text.count(b'"data_offsets"')) > _MAX_TENSORS:
            raise _unsound(path, f"it holds {count} tensors, of at most {_MAX_TENSORS}")
        try:
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError as error:
            fault = _fault(text, num_bytes - 8 - size)
            raise _unsound(path, str(error) if fault is None else fault[1], fault and fault[0]) from None
        entries = json.loads(text, object_pairs_hook=_no_duplicates)
    except (OSError, ValueError, RecursionError) as error:
        raise _unsound(path, str(error)) from None
    return [(name, entry, 8 + size) for name, entry in entries.items() if name != "__metadata__"]


def _unsound(path: Path, reason: str, tensor: str | None = None) -> CheckpointError:
    size = path.stat().st_size if path.is_file() else 0
    return CheckpointError(
        f"{path} ({size} bytes) is not a sound safetensors file: {reason}; is the download complete?",
        subject=str(path) if tensor is None else tensor,
    )


def _fault(text: bytes, num_bytes: int) -> tuple[str, str] | None:
    """The first tensor that cannot be, and why; None if the whole is no header. num_bytes: of the data."""
    try:
        entries = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, dict):
        return None
    tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
    for name, reason in _faults(tensors, num_bytes):
        return name, f"tensor {_shown(name)} {reason}"
    return None


def _faults(tensors: Mapping[str, Any], num_bytes: int) -> Iterator[tuple[str, str]]:
    for name, entry in tensors.items():
        if (reason := _entry_fault(entry, num_bytes)) is not None:
            yield name, reason
            return  # of what cannot be, no order can be told
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != end:
            yield name, f"begins at byte {start}, and what is before it ends at {end}"
        end = stop
    if tensors and end != num_bytes:
        yield name, f"is the last and ends at byte {end}, and the data has {num_bytes}"


def _entry_fault(entry: Any, num_bytes: int) -> str | None:
    """Why no tensor can be what its entry says."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        return "must have dtype, shape and data_offsets"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(map(_is_size, shape)):
        return "must have a shape of sizes"
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        return "must have two data_offsets"
    if not 0 <= offsets[0] <= offsets[1] <= num_bytes:
        return f"has data_offsets {offsets}, and the data has {num_bytes} bytes"
    if not isinstance(dtype, str) or (dtype not in _SIZES and not dtype.startswith("F")):
        return f"has dtype {str(dtype)[:40]!r}, which there is not"
    if dtype in _SIZES and math.prod(shape) * _SIZES[dtype] != offsets[1] - offsets[0]:
        return f"is {dtype} of shape {shape}, which is not {offsets[1] - offsets[0]} bytes"
    return None


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _shown(name: str) -> str:
    return repr(name if len(name) <= 200 else name[:200] + "...")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the header names {_shown(name)} twice")
    return found
