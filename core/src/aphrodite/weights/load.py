"""Streaming weights into their packed place on the device.

Each tensor is read in chunks of rows, so that the peak is the weights plus a fraction of the largest parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
    """Device memory of every parameter by name: Packed for a matrix, a tensor for a vector.

    layouts  of the matrices, by parameter name
    The names have been checked (weights/source.py check_names).
    """
    infos = source.infos()
    order = {name: index for index, name in enumerate(infos)}
    wanted = sorted(parameters, key=lambda parameter: order[parameter.sources[0].tensor])  # as the files have them
    storage = {parameter.ref.name: _allocate(parameter, layouts, platform) for parameter in wanted}
    event = platform.device.event()
    read = [infos[item.tensor] for parameter in wanted for item in parameter.sources]
    progress.start("loading weights", sum(_num_bytes(info.shape, info.dtype) for info in read), "B")
    try:
        for parameter in wanted:
            memory = storage[parameter.ref.name]
            for start, stop in _chunks(parameter, memory):
                for piece in _pieces(parameter, source, memory, start, stop):
                    _upload(memory, piece, platform, stream)
                event.record(stream)
                event.wait()  # the chunk's host memory is free again
                info = infos[parameter.sources[0].tensor]
                progress.advance(_num_bytes((stop - start, *info.shape[1:]), info.dtype))
    finally:
        progress.finish()
    return storage


def _allocate(parameter: Parameter, layouts: Mapping[str, WeightLayout], platform: Platform) -> Any:
    ref = parameter.ref
    if len(ref.shape) == 1:
        return platform.memory.empty(ref.shape, ref.dtype)
    n, k = ref.shape
    layout = layouts[ref.name]
    return Packed(platform.memory.empty(layout.shape(n, k), ref.dtype), layout, (n, k), ref.dtype)


def _chunks(parameter: Parameter, memory: Any) -> Iterator[tuple[int, int]]:
    """Ranges of the parameter's rows, cut at the multiples that its layout packs."""
    rows = parameter.ref.shape[0]
    width = _num_bytes(parameter.ref.shape[1:], parameter.ref.dtype)
    multiple = memory.layout.rows if isinstance(memory, Packed) else 1
    count = max(1, min(_CHUNK_BYTES, rows * width // _CHUNKS_A_PARAMETER) // max(width, 1))
    count = -(-count // multiple) * multiple
    for start in range(0, rows, count):
        yield start, min(rows, start + count)


def _pieces(parameter: Parameter, source: TensorSource, memory: Any, start: int, stop: int) -> Iterator[Piece]:
    """Rows start to stop of a parameter, packed: from one checkpoint tensor as they are, from several put together
    where the layout packs rows in groups."""
    dtype = torch_dtype(parameter.ref.dtype)
    parts: list[tuple[int, torch.Tensor]] = []
    for item in parameter.sources:
        first, last = max(start, item.start), min(stop, item.start + item.shape[0])
        if first < last:
            rows = source.rows(item.tensor, first - item.start, last - item.start).to(dtype)
            parts.append((first, rows))
    pack = memory.layout.pack if isinstance(memory, Packed) else None
    if pack is None:
        yield from (Piece(0, row, rows) for row, rows in parts)
    else:
        yield pack(torch.cat([rows for _, rows in parts]), start, memory.shape)


def _upload(memory: Any, piece: Piece, platform: Platform, stream: Stream) -> None:
    data = memory.data if isinstance(memory, Packed) else memory
    target = data.narrow(piece.dim, piece.start, piece.data.shape[piece.dim])
    platform.memory.upload(target, piece.data, stream)


def _num_bytes(shape: Iterable[int], dtype: str) -> int:
    size = ITEMSIZE[dtype]
    for axis in shape:
        size *= axis
    return size
