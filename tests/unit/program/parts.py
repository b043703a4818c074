"""Small real parts for the tests of Programs: a tiny decoder, a planner, memory on the core's own CPU platform."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from aphrodite.layers.rope import RopeSpec
from aphrodite.models.decoder import Decoder
from aphrodite.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MLPSpec
from aphrodite.ops.composite import Composite
from aphrodite.ops.kernel import Binding, Dims, Kernel, Run
from aphrodite.ops.table import COMPOSITES
from aphrodite.platform.layout import NHD, PLAIN, KVLayout, Packed, Rows, WeightLayout
from aphrodite.platform.spi import DeviceInfo, Limits
from aphrodite.platform.torch_platform import TorchPlatform
from aphrodite.program.planner import Planner
from aphrodite.program.replay import BoundProgram
from aphrodite.program.rules import Rules
from aphrodite.program.trace import Program
from aphrodite.program.values import ConstantRef, KVRef, Ref, RowsRef, WeightRef
from aphrodite.runner.rows import RowTable

BLOCK, NUM_BLOCKS, MAX_LEN = 4, 24, 32
BOUNDS = Dims(T=16, S=4, R=8, U=64, max_q=16, max_k=MAX_LEN)


def spec(*, layers: int = 2, tied: bool = False, head_dim: int = 4, style: str = "neox") -> DecoderSpec:
    attention = AttentionSpec(4, 2, head_dim, RopeSpec(10_000.0, head_dim, style), head_dim**-0.5, qkv_bias=True)
    return DecoderSpec(
        vocab_size=50,
        hidden_size=24,
        norm_eps=1e-5,
        layers=(LayerSpec(attention, MLPSpec(32, "silu")),) * layers,
        tied=tied,
        max_position=MAX_LEN,
    )


def forward(dtype: str = "f32", *, meta_words: int = 0, **changes: Any) -> tuple[Decoder, Program]:
    """A decoder and its forward Program."""
    decoder = Decoder(spec(**changes), dtype, MAX_LEN)
    return decoder, decoder.record(block_size=BLOCK, table_width=MAX_LEN // BLOCK, meta_words=meta_words)


def planner(
    kernels: Iterable[Kernel] = (),
    *,
    rules: Mapping[str, Sequence[str]] | None = None,
    fallback: str = "allow",
    bounds: Dims = BOUNDS,
    layouts: Sequence[WeightLayout] = (),
    kv_layout: str = "nhd",
    limits: Limits | None = None,
    composites: Iterable[Composite] | None = None,
) -> Planner:
    return Planner(
        kernels=kernels,
        composites=COMPOSITES.values() if composites is None else composites,
        weight_layouts={layout.name: layout for layout in (PLAIN, *layouts)},
        arch="v1",
        kv_layout=kv_layout,
        limits=limits or Limits(),
        bounds=bounds,
        rules=Rules(rules or {}, fallback),
    )


def stub(op: str, provider: str, **more: Any) -> Kernel:
    """A kernel that does nothing."""

    def bind(binding: Binding) -> Run:
        return lambda dims: None

    return Kernel(op, provider, bind=bind, **more)


def cpu() -> TorchPlatform:
    return TorchPlatform.on(torch.device("cpu"), DeviceInfo("cpu", "the host"))


class Memory:
    """Random memory for everything that a decoder's Programs refer to."""

    def __init__(
        self, dtype: torch.dtype = torch.float32, layout: KVLayout = NHD, seed: int = 0, platform: Any = None
    ) -> None:
        self.platform = platform or cpu()
        self.stream = self.platform.device.stream()
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype, self.layout = dtype, layout
        self.table = RowTable(
            num_rows=BOUNDS.S, max_len=MAX_LEN, table_width=MAX_LEN // BLOCK, num_groups=1, vocab_size=50
        )
        self.rows = Rows(torch.zeros(self.table.shape, dtype=torch.int32), self.table.fields)
        self.parts: dict[str, Any] = {}

    def resolve(self, ref: Ref) -> Any:
        if isinstance(ref, RowsRef):
            return self.rows
        key = ref.name if isinstance(ref, (WeightRef, ConstantRef)) else f"kv{ref.layer}"
        if key not in self.parts:
            self.parts[key] = self._make(ref)
        return self.parts[key]

    def _make(self, ref: WeightRef | ConstantRef | KVRef) -> Any:
        if isinstance(ref, ConstantRef):
            return ref.make()
        if isinstance(ref, KVRef):
            return self.platform.memory.allocate_kv(
                self.layout,
                num_blocks=NUM_BLOCKS + 1,
                block_size=BLOCK,
                num_heads=ref.num_heads,
                head_dim=ref.head_dim,
                value_dim=ref.value_dim,
                dtype=ref.dtype,
            )
        data = torch.randn(ref.shape, generator=self.generator) * ref.shape[-1] ** -0.5
        data = data.to(self.dtype)
        return Packed(data, PLAIN, ref.shape, ref.dtype) if len(ref.shape) == 2 else data

    def externals(self, program: Program, bounds: Dims = BOUNDS) -> dict[str, Any]:
        zeros = self.platform.memory.zeros
        return {name: zeros(value.sizes(bounds), value.dtype) for name, value in program.externals.items()}

    def bind(self, program: Program, chooser: Planner | None = None) -> BoundProgram:
        plan = (chooser or planner()).plan(program)
        return BoundProgram(plan, self.platform, self.stream, resolve=self.resolve, externals=self.externals(program))

    def start(self, row: int, tokens: Sequence[int], blocks: Sequence[int], computed: int = 0) -> None:
        """Put a request into a row."""
        self.rows.view("num_tokens")[row] = len(tokens)
        self.rows.view("num_computed")[row] = computed
        self.rows.view("tokens")[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
        self.rows.view("table0")[row, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)


def fill(bound: BoundProgram, **columns: Sequence[int]) -> None:
    """Set a step's plan: the first entries of its inputs."""
    for name, values in columns.items():
        bound.externals[name][: len(values)] = torch.tensor(values, dtype=torch.int32)


def at(dims: Dims = BOUNDS, **changes: int) -> Dims:
    return dims._replace(**changes)
