"""The toy platform: its parts put together, its limits, and how torch forms run on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aphrodite.plugin import DeviceInfo, Limits
from aphrodite_toy.attention import META_WORDS, META_WORDS_A_SEQ
from aphrodite_toy.device import ToyDevice, ToyStream
from aphrodite_toy.layouts import THDKB
from aphrodite_toy.memory import Heap, ToyMemory

LIMITS = Limits(
    block_sizes=(8, 16),
    kv_layouts=(THDKB.name,),
    token_buckets=(4, 16, 64, 256, 1024),
    pad=True,
    steps_in_flight=1,
    max_logit_rows=64,
    attn_meta_words=META_WORDS,
    attn_meta_words_a_seq=META_WORDS_A_SEQ,
    kv_share=0.1,
    kv_cap_bytes=256 << 20,
    dtypes=("f32", "bf16", "f16"),
)


@dataclass(frozen=True)
class ToyForms:
    """Forms protocol: a torch form is work like any other, in the queue's order."""

    def adapt(self, form: Callable[..., None], stream: object, name: str) -> Callable[..., None]:
        assert isinstance(stream, ToyStream)

        def queued(*args: object, **kwargs: object) -> None:
            stream.enqueue(name, form, *args, **kwargs)

        return queued


@dataclass(frozen=True)
class ToyPlatform:
    """Platform protocol. The reserved parts are None."""

    device: ToyDevice
    memory: ToyMemory
    forms: ToyForms = ToyForms()
    limits: Limits = LIMITS
    graphs: None = None
    collectives: None = None
    compiler: None = None
    replay: None = None

    @classmethod
    def make(cls, info: DeviceInfo, jitter_s: float) -> ToyPlatform:
        """A platform that shares nothing with any other."""
        heap = Heap()
        return cls(ToyDevice(info, heap.open, jitter_s), ToyMemory(heap))
