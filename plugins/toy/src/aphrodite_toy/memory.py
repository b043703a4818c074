"""Device memory that nothing but the device can read: tensors are descriptions, the bytes stay in the heap."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch

from aphrodite.plugin import KVLayout, KVView, ShapeError, Structure, torch_dtype
from aphrodite_toy.device import ToyStream

_ALIGN = 256  # bytes; what the contract promises of `empty` and of arenas
_WORD = 8  # bytes; blocks are filled in words of the widest type


class Block:
    """One allocation, as its tensors know it: an identity and nothing to read. Its bytes live as long as it does."""


@dataclass(frozen=True, eq=False, repr=False)
class ToyTensor:
    """A view of a block: where it starts, its sizes and strides. What DeviceTensor asks for, and no way to the bytes.

    strides in elements
    """

    block: Block
    offset_bytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    def narrow(self, dim: int, start: int, length: int) -> ToyTensor:
        """Entries start to start + length along dim. ShapeError if there are not so many."""
        size = self.shape[dim]
        if not 0 <= start <= start + length <= size:
            raise ShapeError(f"narrow({dim}, {start}, {length}) of a tensor of {list(self.shape)}", subject="narrow")
        shape = (*self.shape[:dim], length, *self.shape[dim + 1 :])
        return replace(self, offset_bytes=self._address(dim, start), shape=shape)

    def select(self, dim: int, index: int) -> ToyTensor:
        """Entry `index` along dim, which goes away. IndexError if there is none."""
        if not 0 <= index < self.shape[dim]:
            raise IndexError(f"index {index} of an axis of {self.shape[dim]}")
        return replace(
            self,
            offset_bytes=self._address(dim, index),
            shape=(*self.shape[:dim], *self.shape[dim + 1 :]),
            strides=(*self.strides[:dim], *self.strides[dim + 1 :]),
        )

    def __getitem__(self, index: int) -> ToyTensor:
        return self.select(0, index)

    def __repr__(self) -> str:
        return f"ToyTensor({self.dtype}{list(self.shape)}, on the device)"

    def _refuse(self) -> NoReturn:
        raise TypeError("a ToyTensor is in device memory: use the Platform's download")

    # Without these, Python would find a way to read: `x[0], x[1], ...` is an iteration, and any object is true.
    __bool__ = __int__ = __float__ = __len__ = __iter__ = _refuse

    def _address(self, dim: int, index: int) -> int:
        return self.offset_bytes + index * self.strides[dim] * torch_dtype(self.dtype).itemsize


class Heap:
    """The bytes of all blocks of one device. The device opens tensors for the work it runs; the host never does."""

    def __init__(self) -> None:
        self._bytes: weakref.WeakKeyDictionary[Block, torch.Tensor] = weakref.WeakKeyDictionary()

    def allocate(self, num_bytes: int, *, zeroed: bool) -> Block:
        """A block, zeroed or poisoned, aligned to 256 bytes. It is freed when the last tensor that names it is gone."""
        size = -(-num_bytes // _WORD) * _WORD
        raw = torch.empty(size + _ALIGN, dtype=torch.uint8)
        start = -raw.data_ptr() % _ALIGN
        memory = raw[start : start + size]
        if zeroed:
            memory.zero_()
        else:
            poison(memory.view(torch.int64))
        block = Block()
        self._bytes[block] = memory
        return block

    def open(self, argument: Any) -> Any:
        """An argument of a kernel as torch sees it: ToyTensors, alone or in a structure, become torch views."""
        if isinstance(argument, ToyTensor):
            memory = self._bytes.get(argument.block)
            if memory is None:
                raise LookupError(f"{argument!r} is not one of this device's")
            typed = memory.view(torch_dtype(argument.dtype))
            start = typed.storage_offset() + argument.offset_bytes // typed.itemsize
            return typed.as_strided(argument.shape, argument.strides, start)
        return argument.map(self.open) if isinstance(argument, Structure) else argument


@dataclass(frozen=True)
class ToyArena:
    """Memory protocol's Arena: views of one block."""

    block: Block

    def tensor(self, offset_bytes: int, shape: Sequence[int], strides: Sequence[int], dtype: str) -> ToyTensor:
        return ToyTensor(self.block, offset_bytes, tuple(shape), tuple(strides), dtype)


@dataclass(frozen=True)
class ToyMemory:
    """Memory protocol. Undefined memory is poison here, on the device and on the host, so that reading it shows."""

    heap: Heap

    def empty(self, shape: Sequence[int], dtype: str) -> ToyTensor:
        return self._contiguous(shape, dtype, zeroed=False)

    def zeros(self, shape: Sequence[int], dtype: str) -> ToyTensor:
        return self._contiguous(shape, dtype, zeroed=True)

    def arena(self, num_bytes: int) -> ToyArena:
        return ToyArena(self.heap.allocate(num_bytes, zeroed=False))

    def allocate_kv(
        self,
        layout: KVLayout,
        *,
        num_blocks: int,
        block_size: int,
        num_heads: int,
        head_dim: int,
        value_dim: int,
        dtype: str,
    ) -> KVView:
        def half(dim: int) -> ToyTensor:
            shape = layout.shape(block=num_blocks, kv=1, token=block_size, head=num_heads, dim=dim)
            return self.zeros(shape, dtype).select(layout.axes.index("kv"), 0)

        return KVView(half(head_dim), half(value_dim), layout, block_size)

    def trim(self) -> None:
        pass  # what is free is the host's own

    def host(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        return poison(torch.empty(tuple(shape), dtype=torch_dtype(dtype)))

    def upload(self, dst: object, src: torch.Tensor, stream: object) -> None:
        """src is read when the copy runs, not before: who changes it too early uploads the change."""
        assert isinstance(dst, ToyTensor) and isinstance(stream, ToyStream)
        _require_alike("upload", dst, src)
        stream.enqueue("upload", _copy, dst, src)

    def download(self, dst: torch.Tensor, src: object, stream: object) -> None:
        """dst is poison from now on until the copy has run: who reads it too early reads that."""
        assert isinstance(src, ToyTensor) and isinstance(stream, ToyStream)
        _require_alike("download", src, dst)
        poison(dst)
        stream.enqueue("download", _copy, dst, src)

    def _contiguous(self, shape: Sequence[int], dtype: str, *, zeroed: bool) -> ToyTensor:
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        block = self.heap.allocate(math.prod(shape) * torch_dtype(dtype).itemsize, zeroed=zeroed)
        return ToyTensor(block, 0, tuple(shape), strides, dtype)


def poison(tensor: torch.Tensor) -> torch.Tensor:
    """Fill with what no computation means: NaN in every float type, a number far below 0 in every signed integer."""
    pattern = torch.tensor([0xF1, 0xFF] * (_WORD // 2), dtype=torch.uint8)
    return tensor.copy_(pattern.view(tensor.dtype)[0])


def _copy(dst: torch.Tensor, src: torch.Tensor) -> None:
    dst.copy_(src)


def _require_alike(what: str, there: ToyTensor, here: torch.Tensor) -> None:
    """A transfer moves bytes; it neither broadcasts nor converts."""
    if there.shape != tuple(here.shape) or torch_dtype(there.dtype) != here.dtype:
        raise ShapeError(f"{what}: {there!r} and a host tensor {here.dtype}{list(here.shape)}", subject=what)
