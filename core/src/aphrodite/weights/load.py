"""Streaming weights into their packed place on the device.

Each tensor is read in chunks of rows, so that the peak is the weights plus a fraction of the largest parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from aphrodite.platform.dtypes import ITEMSIZE, torch_dtype
from aphrodite.platform.layout import Packed, Piece, WeightLayout
from aphrodite.platform.spi import Platform, Stream
from aphrodite.program.parameters import Parameter
from aphrodite.types.progress import Progress
from aphrodite.weights.source import TensorSource

_CHUNK_BYTES = 16 << 20
_CHUNKS_A_PARAMETER = 16


def load_weights(
    parameters: Iterable[Parameter],
    source: TensorSource,
    *,
    layouts: Mapping[str, WeightLayout],
    platform: Platform,
    stream: Stream,
    progress: Progress,
) -> dict[str, Any]:
    """Device memory of every parameter by name: Packed where it has a layout, else a tensor.

    layouts  of matrices and stacks of them, by parameter name
    The names have been checked (weights/source.py check_names).
    """
    infos = source.infos()
    order = {name: index for index, name in enumerate(infos)}

    def turn(parameter: Parameter) -> tuple[int, int]:
        """What a layout makes anew from whole matrices first, the largest before all: for a moment it is there twice,
        and that is when least else is. The others as the files have them."""
        layout = layouts.get(parameter.ref.name)
        twice = _num_bytes(parameter.ref.shape, parameter.ref.dtype) if layout and layout.finish else 0
        return -twice, order[parameter.sources[0].tensor]

    wanted = sorted(parameters, key=turn)
    storage: dict[str, Any] = {}
    event = platform.device.event()
    read = [infos[item.tensor] for parameter in wanted for item in parameter.sources]
    progress.start("loading weights", sum(_num_bytes(info.shape, info.dtype) for info in read), "B")
    try:
        for parameter in wanted:
            memory = _allocate(parameter, layouts, platform)
            row_bytes = _num_bytes(_row(parameter), infos[parameter.sources[0].tensor].dtype)
            for index, data in enumerate(_matrices(memory)):
                for start, stop in _chunks(parameter, memory):
                    for piece in _pieces(parameter, source, memory, index, start, stop):
                        _upload(data, piece, platform, stream)
                    event.record(stream)
                    event.wait()  # the chunk's host memory is free again
                    progress.advance((stop - start) * row_bytes)
            storage[parameter.ref.name] = _finished(memory)
    finally:
        progress.finish()
    return storage


def _allocate(parameter: Parameter, layouts: Mapping[str, WeightLayout], platform: Platform) -> Any:
    ref = parameter.ref
    if ref.name not in layouts:
        return platform.memory.empty(ref.shape, ref.dtype)
    layout = layouts[ref.name]
    return Packed(platform.memory.empty(layout.storage(ref.shape), ref.dtype), layout, ref.shape, ref.dtype)


def _finished(memory: Any) -> Any:
    """The parameter as kernels get it. What a layout makes of a whole matrix takes its place, one at a time."""
    if not isinstance(memory, Packed) or (finish := memory.layout.finish) is None:
        return memory
    made = tuple(finish(matrix) for matrix in _matrices(memory))
    return replace(memory, data=made if len(memory.shape) > 2 else made[0])


def _matrices(memory: Any) -> Iterator[Any]:
    """The storage of each matrix of a stack; of anything else the storage."""
    if not isinstance(memory, Packed):
        yield memory
    elif len(memory.shape) == 2:
        yield memory.data
    else:
        yield from (memory.data[index] for index in range(memory.shape[0]))


def _chunks(parameter: Parameter, memory: Any) -> Iterator[tuple[int, int]]:
    """Ranges of the rows of a matrix, or of each of a stack, cut at the multiples that its layout packs."""
    shape = parameter.ref.shape
    rows = shape[-2] if len(shape) > 1 else shape[0]
    width = max(_num_bytes(_row(parameter), parameter.ref.dtype), 1)
    whole = _num_bytes(shape, parameter.ref.dtype)
    multiple = memory.layout.rows if isinstance(memory, Packed) else 1
    count = max(1, min(_CHUNK_BYTES, whole // _CHUNKS_A_PARAMETER) // width)
    count = -(-count // multiple) * multiple
    for start in range(0, rows, count):
        yield start, min(rows, start + count)


def _pieces(
    parameter: Parameter, source: TensorSource, memory: Any, index: int, start: int, stop: int
) -> Iterator[Piece]:
    """Rows start to stop of matrix `index`, packed: from one checkpoint tensor as they are, from several put together
    where the layout packs rows in groups."""
    dtype = torch_dtype(parameter.ref.dtype)
    before = index * (memory.shape[-2] if isinstance(memory, Packed) else 0)
    parts: list[tuple[int, torch.Tensor]] = []
    for item in parameter.sources:
        first, last = max(before + start, item.start), min(before + stop, item.start + item.num_rows)
        if first < last:
            rows = source.rows(item.tensor, first - item.start, last - item.start).to(dtype)
            parts.append((first - before, rows))
    pack = memory.layout.pack if isinstance(memory, Packed) else None
    if pack is None:
        yield from (Piece(0, row, rows) for row, rows in parts)
    else:
        n, k = memory.shape[-2:]
        yield pack(torch.cat([rows for _, rows in parts]), start, (n, k))


def _upload(data: Any, piece: Piece, platform: Platform, stream: Stream) -> None:
    target = data.narrow(piece.dim, piece.start, piece.data.shape[piece.dim])
    platform.memory.upload(target, piece.data, stream)


def _row(parameter: Parameter) -> tuple[int, ...]:
    """The shape of one row."""
    return parameter.ref.shape[-1:] if len(parameter.ref.shape) > 1 else ()


def _num_bytes(shape: Iterable[int], dtype: str) -> int:
    return ITEMSIZE[dtype] * math.prod(shape)
