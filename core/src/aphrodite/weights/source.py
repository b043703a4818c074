"""Where weights come from: tensors by name, read by rows."""

from __future__ import annotations

import fnmatch
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from aphrodite.errors import CheckpointError
from aphrodite.platform.dtypes import torch_dtype
from aphrodite.program.parameters import Parameter

_TILE_ROWS = 64  # rows of dummy weights that are drawn; the rest are these, rolled
_ROLL = 7919  # columns; a prime, so that few tiles are alike


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a checkpoint. `where` names its file, for messages; dtype is a contract name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    where: str


class TensorSource(Protocol):
    """Tensors of a model. `rows` may be called in any order, but goes fastest in that of `infos`.

    A tensor of three axes or more is the matrix of all its rows: what the last axis holds is one.
    """

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Tensors that are there and left out, with their type in the file's own words."""
        ...

    def infos(self) -> Mapping[str, TensorInfo]: ...

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows start to stop (entries, of a vector) as a host tensor [n, K] of its own, which the caller may keep."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


class DummySource:
    """Random weights with the names and shapes that a network wants; the same for the same seed, however chunked."""

    def __init__(self, parameters: Iterable[Parameter], dtype: str, seed: int) -> None:
        self._infos = {
            source.tensor: TensorInfo(source.tensor, source.shape, dtype, "dummy weights")
            for parameter in parameters
            for source in parameter.sources
        }
        self.unreadable: Mapping[str, str] = {}
        self._dtype = torch_dtype(dtype)
        self._seed = seed
        self._drawn: tuple[str, torch.Tensor] | None = None

    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        shape = self._infos[name].shape
        if len(shape) == 1:  # norms and biases
            return torch.ones(stop - start, dtype=self._dtype)
        out = torch.empty(stop - start, shape[-1], dtype=self._dtype)
        base = self._base(name)
        for tile in range(start // _TILE_ROWS, -(-stop // _TILE_ROWS)):
            values = base.roll(tile * _ROLL, -1)
            first = tile * _TILE_ROWS
            low, high = max(start, first), min(stop, first + _TILE_ROWS)
            out[low - start : high - start] = values[low - first : high - first]
        return out

    def _base(self, name: str) -> torch.Tensor:
        """The tensor's first tile. The others are it, rolled: drawing billions of normal numbers takes minutes."""
        if self._drawn is None or self._drawn[0] != name:
            shape = self._infos[name].shape
            generator = torch.Generator().manual_seed((zlib.crc32(name.encode()) ^ self._seed) % 2**63)
            base = torch.randn(_TILE_ROWS, shape[-1], generator=generator) * shape[-1] ** -0.5
            self._drawn = (name, base.to(self._dtype))
        return self._drawn[1]

    def close(self) -> None:
        pass


def check_names(
    parameters: Iterable[Parameter], infos: Mapping[str, TensorInfo], ignored: Iterable[str], where: str
) -> None:
    """CheckpointError unless the checkpoint has exactly the tensors that the network wants, in their shapes.

    ignored  globs of tensors that may be there and carry no parameter
    """
    wanted = {source.tensor: source.shape for parameter in parameters for source in parameter.sources}
    missing = sorted(set(wanted) - set(infos))
    if missing:
        raise CheckpointError(
            f"{where}: {_some(missing)} missing, which config.json asks for: is this checkpoint complete?",
            subject=missing[0],
        )
    globs = list(ignored)
    extra = sorted(
        name for name in set(infos) - set(wanted) if not any(fnmatch.fnmatchcase(name, glob) for glob in globs)
    )
    if extra:
        raise CheckpointError(
            f"{where}: {_some(extra)} not part of the network that config.json describes: weights that are there and "
            "not used would give wrong text",
            subject=extra[0],
        )
    for name, shape in wanted.items():
        if infos[name].shape != shape:
            raise CheckpointError(
                f"{infos[name].where}: tensor {name!r} has shape {list(infos[name].shape)}, config.json asks for "
                f"{list(shape)}",
                subject=name,
            )


def check_copy(source: TensorSource, name: str, of: str) -> None:
    """CheckpointError if the tensor `name` is there and is no copy of `of`, to which the config ties it."""
    infos = source.infos()
    if name not in infos:
        return
    mine, other = infos[name], infos[of]
    count = max(1, (16 << 20) // max(1, 8 * math.prod(other.shape[1:])))
    same = mine.shape == other.shape
    for start in range(0, other.shape[0] if same else 0, count):
        stop = min(start + count, other.shape[0])
        rows = source.rows(of, start, stop).to(torch.float32, copy=True)  # the source may reuse its memory
        same = same and torch.equal(rows, source.rows(name, start, stop).float())
    if not same:
        raise CheckpointError(
            f"{mine.where}: tensor {name!r} differs from {of!r}, and config.json ties them: set tie_word_embeddings to "
            "false, or remove the tensor",
            subject=name,
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor {shown}{more} is" if len(names) == 1 else f"tensors {shown}{more} are"
