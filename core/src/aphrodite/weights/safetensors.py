"""Checkpoints in safetensors files. The library checks each header; the bytes are read with plain reads.

Plain reads, because mapped pages count as this process's memory: loading would peak at twice the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from aphrodite.errors import CheckpointError, ModelError
from aphrodite.files import FileError, read_file
from aphrodite.platform.dtypes import ITEMSIZE, torch_dtype
from aphrodite.weights.header import read_header
from aphrodite.weights.source import TensorInfo

_MAX_INDEX_BYTES = 64 << 20
_DTYPES = {"F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16"}


@dataclass(frozen=True)
class _Place:
    """Where a tensor's bytes begin in its file."""

    path: Path
    offset: int


class SafetensorsSource:
    """All tensors of a checkpoint folder: model.safetensors, or the shards that its index names.

    skip_unreadable  tensors of other types than weights have are left out, and listed; else they are errors
    """

    def __init__(self, folder: Path, *, skip_unreadable: bool = False) -> None:
        self.unreadable: dict[str, str] = {}
        self._infos: dict[str, TensorInfo] = {}
        self._places: dict[str, _Place] = {}
        self._file: tuple[Path, BinaryIO] | None = None
        for path in _files(folder):
            where = str(path)
            for name, entry, base in read_header(path):
                if skip_unreadable and entry["dtype"] not in _DTYPES:
                    self.unreadable[name] = entry["dtype"]
                    continue
                if name in self._infos:
                    raise CheckpointError(f"{path}: tensor {name!r} is also in {self._infos[name].where}", subject=name)
                self._infos[name] = _info(name, entry, where)
                self._places[name] = _Place(path, base + entry["data_offsets"][0])
        order = sorted(self._infos.values(), key=lambda info: (info.where, self._places[info.name].offset))
        self._infos = {info.name: info for info in order}

    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        info, place = self._infos[name], self._places[name]
        inner = info.shape[-1:] if len(info.shape) > 1 else ()
        width = ITEMSIZE[info.dtype] * math.prod(inner)
        data = torch.empty((stop - start) * width, dtype=torch.uint8)
        view = memoryview(data.numpy())  # type: ignore[arg-type]
        file = self._open(place.path)
        file.seek(place.offset + start * width)
        if file.readinto(view) != len(view):  # type: ignore[attr-defined]
            raise CheckpointError(f"{place.path} ends inside tensor {name!r}: the file is truncated", subject=name)
        return data.view(torch_dtype(info.dtype)).view(stop - start, *inner)

    def close(self) -> None:
        """Close the file that was read last."""
        if self._file is not None:
            self._file[1].close()
            self._file = None

    def _open(self, path: Path) -> BinaryIO:
        if self._file is None or self._file[0] != path:
            self.close()
            self._file = (path, path.open("rb", buffering=0))
        return self._file[1]


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return [folder / name for name in _indexed(index)]
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    others = sorted(path.name for glob in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf") for path in folder.glob(glob))
    hint = f"; {', '.join(others[:3])} cannot be read: pickled files run code, convert them" if others else ""
    raise ModelError(f"{folder} has no *.safetensors file{hint}", subject=str(folder))


def _indexed(index: Path) -> list[str]:
    """The files an index names, each inside its folder."""
    try:
        names = set(json.loads(read_file(index, _MAX_INDEX_BYTES))["weight_map"].values())
    except FileError as error:
        raise CheckpointError(f"{index} {error}", subject=str(index)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index} is not an index of safetensors files ({type(error).__name__}: {error})",
            subject=str(index),
        ) from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {name!r}, which is no safetensors file beside it", subject=str(index))
        if not _is_file(index.parent / name):
            raise CheckpointError(
                f"{index} names {name}, which does not exist: is the download complete?", subject=name
            )
    return sorted(names)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL in it
        return False


def _info(name: str, entry: Mapping[str, Any], where: str) -> TensorInfo:
    if entry["dtype"] not in _DTYPES:
        raise CheckpointError(
            f"{where}: tensor {name!r} is {entry['dtype']}; weights must be one of {', '.join(_DTYPES)}",
            subject=name,
        )
    return TensorInfo(name, tuple(entry["shape"]), _DTYPES[entry["dtype"]], where)
