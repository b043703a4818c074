"""How KV blocks, weights and row state lie in device memory. Named descriptors: no kernel guesses from a shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

CANONICAL_KV = ("block", "token", "head", "dim")


class DeviceTensor(Protocol):
    """All that the core itself asks of a tensor in device memory. torch.Tensor is one.

    shape    sizes; strides are the platform's own business
    narrow   a view of `length` entries from `start` along `dim`; same memory, no work on the device
    [index]  entry `index` of the first axis, likewise a view
    """

    @property
    def shape(self) -> Any: ...

    def narrow(self, dim: int, start: int, length: int) -> DeviceTensor: ...

    def __getitem__(self, index: int) -> DeviceTensor: ...


@dataclass(frozen=True)
class KVLayout:
    """Order of the axes of a cache group's storage, outermost first.

    axes is a permutation of (block, kv, token, head, dim), or (block, token, dim) for latent caches.
    The torch forms of the operations work on any such order; kernels name the layouts they read in
    `where=C(layout={...})`.
    """

    name: str
    axes: tuple[str, ...]

    def __post_init__(self) -> None:
        legal = ({"block", "kv", "token", "head", "dim"}, {"block", "token", "dim"})
        if set(self.axes) not in legal or len(set(self.axes)) != len(self.axes):
            raise ValueError(
                f"KV layout {self.name!r}: axes must be a permutation of (block, kv, token, head, dim) or "
                f"(block, token, dim), got {self.axes}"
            )

    def shape(self, **sizes: int) -> tuple[int, ...]:
        """Storage shape for sizes block=, kv=, token=, head=, dim=."""
        return tuple(sizes[axis] for axis in self.axes)

    def to_canonical(self) -> tuple[int, ...]:
        """Permutation from one half (K or V) of the storage, its kv axis taken out, to [block, token, head, dim]."""
        rest = [axis for axis in self.axes if axis != "kv"]
        return tuple(rest.index(axis) for axis in CANONICAL_KV)


NHD = KVLayout("nhd", ("block", "kv", "token", "head", "dim"))
HND = KVLayout("hnd", ("block", "kv", "head", "token", "dim"))
LATENT = KVLayout("latent", ("block", "token", "dim"))


Structured = TypeVar("Structured", bound="Structure")


class Structure:
    """An argument of a kernel that holds device tensors: KVView, Packed, Rows. `tensors` names the fields that do."""

    tensors: ClassVar[tuple[str, ...]] = ()

    def map(self: Structured, fn: Callable[[Any], Any]) -> Structured:
        """The same structure with `fn` of each of its tensors; how a platform opens its tensors for a torch form."""
        changed: Structured = replace(self, **{name: fn(getattr(self, name)) for name in self.tensors})  # type: ignore[type-var]
        return changed


@dataclass(frozen=True)
class KVView(Structure):
    """One layer's keys and values.

    k, v        storage in `layout` order with the kv axis taken out
    layout      the order of the axes
    block_size  tokens a block
    Block 0 is never allocated to a sequence; slot -1 writes there.
    """

    tensors = ("k", "v")

    k: Any
    v: Any
    layout: KVLayout
    block_size: int

    def canonical(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(k, v) as torch views [block, token, head, dim] of the same memory; for torch tensors only."""
        order = self.layout.to_canonical()
        return self.k.permute(order), self.v.permute(order)


@dataclass(frozen=True)
class Piece:
    """A part of a packed weight: `data` (host) fills storage.narrow(dim, start, data.shape[dim])."""

    dim: int
    start: int
    data: torch.Tensor


@dataclass(frozen=True)
class WeightLayout:
    """How a matrix w[N, K] lies in memory, so that every kernel at a site reads the same bytes.

    A stack of matrices w[E, N, K], such as those of experts, is the storage of each, one behind the other: any layout
    serves stacks too, and `pack` sees one matrix at a time.

    name    what kernels declare in `where=C(weights={...})`
    shape   (N, K) -> storage shape
    pack    (host rows [n, K] of w from row `start`, start, (N, K)) -> the Piece of storage they fill; called at load,
            chunk by chunk, in any order. None keeps rows as they are
    rows    chunks handed to `pack` start at multiples of this and hold a multiple of it, but for the matrix's end
    finish  (storage of a matrix, full) -> what kernels get as `data` in its place, for layouts that a library makes of
            a whole matrix; a stack has a tuple of them. The storage is let go of
    """

    name: str
    shape: Callable[[int, int], tuple[int, ...]]
    pack: Callable[[torch.Tensor, int, tuple[int, int]], Piece] | None = None
    rows: int = 1
    finish: Callable[[Any], Any] | None = None

    def storage(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Storage shape of a matrix (N, K) or of a stack (E, N, K)."""
        *stack, n, k = shape
        return (*stack, *self.shape(n, k))


def _plain_shape(n: int, k: int) -> tuple[int, ...]:
    return (n, k)


PLAIN = WeightLayout("plain", _plain_shape)


@dataclass(frozen=True)
class Packed(Structure):
    """A weight w[N, K] or a stack w[E, N, K] in its packed place.

    data   of the shape that `layout` gives a matrix, behind E for a stack; plain is [N, K] or [E, N, K] itself. Where
           the layout has a `finish`, what that made of it
    shape  (N, K) or (E, N, K)
    """

    tensors = ("data",)

    data: Any
    layout: WeightLayout
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class RowField:
    """A field of the rows: `width` values of `dtype` a row, from i32 column `column` of the state."""

    name: str
    dtype: str
    column: int
    width: int


@dataclass(frozen=True)
class Rows(Structure):
    """State of every running request on the device, a row each: one i32 matrix, fields are column ranges.

    state   [M, W] i32; a field of another type is its bits
    fields  by name: tokens, num_tokens, num_computed, temperature, seed, child, table0, table1 ...; of what shapes a
            draw, the numbers num_prompt, top_k, top_p, min_p, repetition, frequency, presence, min_len, has_allowed
            and the lists stops, bias_ids with biases, bad_ids with bad_places, allowed
    A list has as many entries as num_stops, num_biases and num_bad_tokens say; behind them is anything. Bad words lie
    in bad_ids one after the other: bad_places is n at the last token of a word of n, and before it -1, -2 ... back to
    the word's start: where, from the token to come, the entry must stand. allowed has a bit for each id of the
    vocabulary, from the lowest bit of the first word up.
    One matrix makes an update of any field of any row one scatter.
    """

    tensors = ("state",)

    state: Any
    fields: tuple[RowField, ...]

    def field(self, name: str) -> RowField:
        """The descriptor of a field. KeyError if there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def view(self, name: str) -> torch.Tensor:
        """A field of one value a row as a torch view [M], any other as [M, width]; for torch tensors only."""
        matrix = self.matrix(name)
        return matrix[:, 0] if matrix.shape[1] == 1 else matrix

    def matrix(self, name: str) -> torch.Tensor:
        """A field as a torch view [M, width] of the state, also when the width happens to be 1."""
        from aphrodite.platform.dtypes import ITEMSIZE, torch_dtype

        field = self.field(name)
        words = field.width * ITEMSIZE[field.dtype] // ITEMSIZE["i32"]
        out: torch.Tensor = self.state.narrow(1, field.column, words)
        return out if field.dtype == "i32" else out.view(torch_dtype(field.dtype))
