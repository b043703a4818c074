"""What a device plugin supplies: small protocols, each with a stated default.

A device that torch knows takes `TorchPlatform` (platform/torch_platform.py) and changes what differs. A device that
torch does not know implements `Device`, `Memory` and `Forms`; plugins/toy is such a one, complete.
Parts marked *reserved* are not called by this version of the core; offering one is reported, never ignored in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aphrodite.platform.dtypes import ACTIVATION
from aphrodite.platform.layout import DeviceTensor, KVLayout, KVView

if TYPE_CHECKING:
    import torch


MAX_STEPS_IN_FLIGHT = 4  # each has host buffers of its own


@dataclass(frozen=True)
class DeviceInfo:
    """One device that a probe found. `device` is what users type (`--device`); arch is free text kernels may test."""

    device: str
    name: str
    arch: str = ""
    total_memory_bytes: int = 0


@dataclass(frozen=True)
class Unavailable:
    """A probe's answer when the plugin is sound but has no device here; the hint says what the user can do."""

    reason: str
    hint: str = ""


@dataclass(frozen=True)
class MemoryInfo:
    """Bytes an engine may still take, and bytes in all (of the cgroup or device, whichever is less). 0 in all: not
    known; 0 for both: nothing is, and the user says how large the KV cache is to be."""

    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Limits:
    """Plain data about the device; all that scheduler, block manager and planner read of it.

    block_sizes      tokens a KV block, best first
    kv_layouts       names of KV layouts, best first; the first one that is registered is taken
    token_buckets    sizes that T is rounded up to when kernels are chosen; empty: powers of two
    pad              whether T, S and R are padded to their buckets when a step runs (devices that replay or compile)
    steps_in_flight  steps submitted before the result of the first is read, at most 4
    max_logit_rows   most rows of logits a step may ask for, or max_num_seqs where that is more
    attn_meta_words, attn_meta_words_a_seq  i32 words that the plugin's attn_plan kernels write for a step and cache
                     group, at most: so many, and so many more for each sequence
    kv_share         share that the KV cache takes by default of what memory_utilization leaves beside weights and
                     buffers; less than 1 where others need the memory too
    kv_cap_bytes     most bytes it takes by default; None: no cap
    dtypes           activation types the device computes in, best first
    slow_dtypes      those of `dtypes` that dtype="auto" avoids in favour of f32, with the reason
    notes            what the plugin chose by itself, each in a few words with the reason, "2 threads (affinity 2)":
                     shown in the line that the command line prints, and by `explain`
    """

    block_sizes: tuple[int, ...] = (16,)
    kv_layouts: tuple[str, ...] = ("nhd",)
    token_buckets: tuple[int, ...] = ()
    pad: bool = False
    steps_in_flight: int = 0
    max_logit_rows: int = 256
    attn_meta_words: int = 0
    attn_meta_words_a_seq: int = 0
    kv_share: float = 1.0
    kv_cap_bytes: int | None = None
    dtypes: tuple[str, ...] = ("f32", "bf16", "f16")
    slow_dtypes: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("block_sizes", "kv_layouts", "token_buckets", "dtypes"):
            if not isinstance(value := getattr(self, name), tuple) or (not value and name != "token_buckets"):
                raise ValueError(
                    f"Limits.{name} must be a tuple{'' if name == 'token_buckets' else ', not empty'}, got {value!r}"
                )
        given: Any = self.notes  # from outside: its type is a promise, not a fact
        if not isinstance(given, tuple) or any(not isinstance(note, str) for note in given):
            raise ValueError(f"Limits.notes must be a tuple of strings, got {given!r}")
        for name in ("block_sizes", "token_buckets"):
            if any(type(size) is not int or size < 1 for size in getattr(self, name)):
                raise ValueError(f"Limits.{name} must be integers of at least 1, got {getattr(self, name)}")
        if unknown := set(self.dtypes) - set(ACTIVATION):
            raise ValueError(f"Limits.dtypes must be of {', '.join(ACTIVATION)}, got {', '.join(map(str, unknown))}")
        if any(not isinstance(name, str) for name in self.kv_layouts):
            raise ValueError(f"Limits.kv_layouts must be a tuple of names, got {self.kv_layouts!r}")
        slow: Any = self.slow_dtypes
        if not isinstance(slow, Mapping) or any(not isinstance(why, str) for pair in slow.items() for why in pair):
            raise ValueError(f"Limits.slow_dtypes must be a mapping of types to reasons, got {slow!r}")
        cap: Any = self.kv_cap_bytes
        if cap is not None and (type(cap) is not int or cap < 0):
            raise ValueError(f"Limits.kv_cap_bytes must be None or an integer of at least 0, got {cap!r}")
        least = {"steps_in_flight": 0, "max_logit_rows": 1, "attn_meta_words": 0, "attn_meta_words_a_seq": 0}
        for name, low in least.items():
            if type(value := getattr(self, name)) is not int or value < low:
                raise ValueError(f"Limits.{name} must be an integer of at least {low}, got {value!r}")
        if self.steps_in_flight > MAX_STEPS_IN_FLIGHT:
            raise ValueError(
                f"Limits.steps_in_flight must be at most {MAX_STEPS_IN_FLIGHT}, got {self.steps_in_flight}"
            )
        share: Any = self.kv_share
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ValueError(f"Limits.kv_share must be a number in (0, 1], got {share!r}")


class Stream(Protocol):
    """An ordered queue of device work. `handle` is what native kernels take (0 where there is none)."""

    @property
    def handle(self) -> int: ...


class Event(Protocol):
    """A mark in a stream. What a download writes may be read by the host only after an event behind it has passed.

    An event that was never recorded has passed; recorded again, it means the last time.
    """

    def record(self, stream: Stream) -> None: ...

    def done(self) -> bool:
        """Whether all work before the mark has ended, well or not; never blocks."""
        ...

    def wait(self) -> None:
        """Block the calling thread until done. Raises DeviceError if work before the mark failed."""
        ...


class Device(Protocol):
    """The device itself. One instance an engine; there is no process-wide current device."""

    @property
    def info(self) -> DeviceInfo: ...

    @property
    def torch_device(self) -> torch.device | None:
        """The torch device whose tensors are this memory, None if torch does not know it."""
        ...

    def activate(self) -> None:
        """Make it current for the calling thread; called once by each thread that drives it."""
        ...

    def stream(self) -> Stream: ...

    def event(self) -> Event: ...

    def synchronize(self) -> None:
        """Wait for all work of this engine. DeviceError if some has failed that no call of this has told of; having
        told of it, a device that is sound takes work again. One that is lost raises at every call."""
        ...

    def memory(self) -> MemoryInfo: ...

    def close(self) -> None:
        """Give back threads and memory, after what is queued. May be called twice; nothing else comes after it."""
        ...


class Arena(Protocol):
    """One block of device memory in which a Program's buffers have fixed addresses."""

    def tensor(self, offset_bytes: int, shape: Sequence[int], strides: Sequence[int], dtype: str) -> DeviceTensor:
        """A view at `offset_bytes`; strides in elements. Views may overlap: liveness keeps that sound."""
        ...


class Memory(Protocol):
    """Allocation and transfer. Only start-up allocates; a step never does, but for what kernels take for themselves.

    Whoever finds no memory, a kernel too, raises CapacityError, MemoryError, torch.OutOfMemoryError or an OSError of
    ENOMEM: at start the command then ends with advice, and a step is run again, smaller.
    """

    def empty(self, shape: Sequence[int], dtype: str) -> DeviceTensor:
        """Memory with undefined contents, base aligned to 256 bytes."""
        ...

    def zeros(self, shape: Sequence[int], dtype: str) -> DeviceTensor: ...

    def arena(self, num_bytes: int) -> Arena: ...

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
        """Zeroed storage of one layer, block 0 included in num_blocks. Keys have head_dim, values value_dim entries a
        head; where these differ the two lie apart, each in the layout without its kv axis."""
        ...

    def trim(self) -> None:
        """Give back to the device what is kept for allocations to come; a no-op where nothing is. Called when a step
        has failed: memory may have run out."""
        ...

    def host(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        """A host tensor that `upload` and `download` move fastest (pinned where that exists)."""
        ...

    def upload(self, dst: DeviceTensor, src: torch.Tensor, stream: Stream) -> None:
        """Copy host to device in stream order; shapes and types are equal. The caller keeps src alive and unchanged
        until an event behind this has passed."""
        ...

    def download(self, dst: torch.Tensor, src: DeviceTensor, stream: Stream) -> None:
        """Copy device to host in stream order; shapes and types are equal. dst may be read after an event behind this
        has passed, not before."""
        ...


class Forms(Protocol):
    """How the torch forms of the operations run on this device."""

    def adapt(self, form: Callable[..., None], stream: Stream, name: str) -> Callable[..., None]:
        """Turn a torch function over tensors into one over this device's tensors, run in the stream's order.

        name  "provider at site", for messages if it fails
        Arguments are device tensors, Structures (whose `map` opens theirs), numbers, strings and None.
        """
        ...


class Graphs(Protocol):
    """Recording a run of kernels once and launching it whole. kind is "capture"; "compiled" is reserved."""

    @property
    def kind(self) -> str: ...

    def capture(self, fn: Callable[[], None], stream: Stream) -> object:
        """Record the work that fn gives to the stream, without running it. fn has run on this stream before, so that
        nothing is left to compile; what it allocates stays with the graph."""
        ...

    def replay(self, handle: object, stream: Stream) -> None:
        """Run recorded work in stream order."""
        ...


class Collectives(Protocol):
    """*Reserved.* Collectives of a tensor-parallel group."""

    def all_reduce(self, x: DeviceTensor, stream: Stream) -> None: ...

    def all_gather(self, out: DeviceTensor, x: DeviceTensor, stream: Stream) -> None: ...


class Compiler(Protocol):
    """*Reserved.* Devices that compile a whole Program for each static bucket."""

    def buckets(self) -> Sequence[int]: ...

    def compile(self, program: Any, bucket: int) -> Callable[..., None]: ...


class Replay(Protocol):
    """*Reserved.* Replays a whole Program as one native call."""

    def replay(self, program: Any, dims: Any) -> None: ...


class Platform(Protocol):
    """A device as an engine sees it: one object, made for that engine alone by the factory a plugin registers.

    Every part must be there; those that a device lacks are None.
    """

    @property
    def device(self) -> Device: ...

    @property
    def memory(self) -> Memory: ...

    @property
    def forms(self) -> Forms: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def graphs(self) -> Graphs | None:
        """Graph capture; default None. Takes effect with Limits(pad=True)."""
        ...

    @property
    def collectives(self) -> Collectives | None:
        """Reserved; default None."""
        ...

    @property
    def compiler(self) -> Compiler | None:
        """Reserved; default None."""
        ...

    @property
    def replay(self) -> Replay | None:
        """Reserved; default None."""
        ...
