"""attn_decode against float64: head sizes, groups, lengths around a tile, types, what it must not read, stable bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import aphrodite_kernels_cpu as kernels

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
EPS = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
RED = 123.0
SIZE = 5  # tokens of a block: none of the kernel's own sizes is a multiple


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Case:
    """Sequences with one new token each, in shuffled blocks; what no sequence holds is NaN."""

    lengths: list[int]
    kv_heads: int = 2
    group: int = 1
    dim: int = 8
    value_dim: int = 8
    dtype: str = "f32"
    stored: str = "f32"
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.seed)
        widths = [-(-length // SIZE) for length in self.lengths]
        order = (torch.randperm(sum(widths), generator=g) + 1).tolist()
        self.tables = torch.full((len(widths), max(widths) + 2), -(2**30), dtype=torch.int32)
        shape = (sum(widths) + 1, SIZE, self.kv_heads)
        self.k = torch.full((*shape, self.dim + 3), math.nan, dtype=DTYPES[self.stored])[..., : self.dim]
        self.v = torch.full((*shape, self.value_dim + 1), math.nan, dtype=DTYPES[self.stored])[..., : self.value_dim]
        for s, length in enumerate(self.lengths):
            first = max(0, length - self.window) // SIZE if self.window else 0
            for b in range(first, widths[s]):
                block, held = order.pop(), min(SIZE, length - b * SIZE)
                self.tables[s, b] = block
                for cells in (self.k, self.v):
                    cells[block, :held] = torch.randn(held, *cells.shape[2:], generator=g).to(cells.dtype)
        heads = self.kv_heads * self.group
        self.q = torch.randn(len(widths), heads, self.dim + 1, generator=g).to(DTYPES[self.dtype])[..., : self.dim]
        self.sink_logits = torch.randn(heads, generator=g) * 3 if self.sinks else None
        self.seq_lens = torch.tensor(self.lengths, dtype=torch.int32)
        self.cu_q = torch.arange(len(widths) + 1, dtype=torch.int32)

    def run(self) -> tuple[Tensor, Tensor]:
        """out and lse, with what lies around them checked."""
        num, heads = self.q.shape[:2]
        buffer = torch.full((num + 2, heads + 1, self.value_dim + 3), RED, dtype=self.q.dtype)
        lses = torch.full((num + 2, heads + 1), RED)
        out, lse = buffer[1:-1, :heads, : self.value_dim], lses[1:-1, :heads]
        kernels.attn_decode(
            out.data_ptr(),
            lse.data_ptr(),
            self.q.data_ptr(),
            self.k.data_ptr(),
            self.v.data_ptr(),
            self.tables.data_ptr(),
            self.seq_lens.data_ptr(),
            self.cu_q.data_ptr(),
            0 if self.sink_logits is None else self.sink_logits.data_ptr(),
            len(self.lengths),
            self.kv_heads,
            self.group,
            self.dim,
            self.value_dim,
            SIZE,
            (out.stride(0), out.stride(1)),
            lse.stride(0),
            (self.q.stride(0), self.q.stride(1)),
            (self.k.stride(0), self.k.stride(1), self.k.stride(2)),
            (self.v.stride(0), self.v.stride(1), self.v.stride(2)),
            self.tables.stride(0),
            self.window,
            self.dim**-0.5,
            self.softcap,
            kernels.DTYPES[self.dtype],
            kernels.DTYPES[self.stored],
        )
        results = out.clone(), lse.clone()
        out.fill_(RED)
        lse.fill_(RED)
        assert torch.all(buffer == RED), "written outside the rows"
        assert torch.all(lses == RED), "written outside the rows"
        return results

    def truth(self) -> tuple[Tensor, Tensor, Tensor]:
        """out and lse in float64, and the weighted sum of the values' sizes, to which rounding is in proportion."""
        outs, lses, sizes = [], [], []
        for s, length in enumerate(self.lengths):
            positions = torch.arange(max(0, length - self.window) if self.window else 0, length)
            blocks, offsets = self.tables[s, positions // SIZE].long(), positions % SIZE
            k, v = (cells[blocks, offsets].double().repeat_interleave(self.group, 1) for cells in (self.k, self.v))
            scores = torch.einsum("hd,thd->ht", self.q[s].double(), k) * self.dim**-0.5
            if self.softcap:
                scores = self.softcap * torch.tanh(scores / self.softcap)
            if self.sink_logits is not None:
                scores = torch.cat([scores, self.sink_logits.double()[:, None]], 1)
            weights = scores.softmax(-1)[:, : len(positions)]
            outs.append(torch.einsum("ht,thd->hd", weights, v))
            sizes.append(torch.einsum("ht,thd->hd", weights, v.abs()))
            lses.append(scores.logsumexp(-1))
        return torch.stack(outs), torch.stack(lses), torch.stack(sizes)

    def check(self) -> None:
        """A score is a sum of `dim` rounded products, and its error is the weight's relative one."""
        (out, lse), (exact, exact_lse, size) = self.run(), self.truth()
        rounding = EPS["f32"] * (16 + 4 * self.dim**0.5)
        assert torch.all((out.double() - exact).abs() <= EPS[self.dtype] * exact.abs() + rounding * size + 1e-30)
        assert torch.all((lse.double() - exact_lse).abs() <= rounding * (1 + exact_lse.abs()))


LENGTHS = [1, 2, 63, 64, 65, 66, 127, 128, 129, 200]


@pytest.mark.parametrize("dim", [1, 3, 4, 15, 16, 17, 20, 64, 80, 100, 128, 257, 1024])
def test_head_sizes(dim: int) -> None:
    Case(LENGTHS, dim=dim, value_dim=dim).check()
    Case([70], dim=dim, value_dim=1024 // dim, group=3).check()
    Case([70], dim=dim, value_dim=dim, kv_heads=3, group=11).check()


@pytest.mark.parametrize(
    ("kv_heads", "group"), [(1, 1), (7, 1), (40, 1), (3, 2), (2, 3), (5, 4), (1, 7), (2, 8), (2, 17), (1, 40)]
)
def test_heads(kv_heads: int, group: int) -> None:
    Case([1, 64, 67, 20], kv_heads=kv_heads, group=group, dim=12, value_dim=36).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", DTYPES)
def test_types(dtype: str, stored: str) -> None:
    Case(LENGTHS, dtype=dtype, stored=stored, dim=40, value_dim=40, group=3).check()


@pytest.mark.parametrize("window", [0, 1, 2, 5, 63, 64, 65, 1000])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("softcap", [0.0, 0.5, 30.0])
def test_features(window: int, sinks: bool, softcap: float) -> None:
    Case(LENGTHS, window=window, sinks=sinks, softcap=softcap, group=2).check()


def test_scores_of_every_size() -> None:
    """Weights under a greatest score that comes late, and that leaves nothing of the others."""
    for scale in (1e-3, 1.0, 30.0, 300.0, 3000.0):
        for sinks in (False, True):
            case = Case(LENGTHS, group=2, sinks=sinks)
            case.q *= scale
            (out, lse), (exact, exact_lse, _) = case.run(), case.truth()
            error = EPS["f32"] * 16 * max(1.0, scale * 8)
            assert (out.double() - exact).abs().max() <= error
            assert ((lse.double() - exact_lse).abs() / (1 + exact_lse.abs())).max() <= 32 * EPS["f32"]


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_poisoned_sequence_changes_no_other(poison: float) -> None:
    case = Case([70, 3, 90], group=2)
    clean = case.run()
    case.k[case.tables[1, 0].item(), 1] = poison
    for before, after in zip(clean, case.run(), strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert not after[1].isfinite().all()


def test_sequences_with_none_or_many_new_tokens_are_left_alone() -> None:
    case = Case([9, 70, 8, 20], group=2)
    whole, _ = case.run()
    packed = Case([9, 70, 8, 20], group=2)
    packed.q = case.q[torch.tensor([0, 1, 1, 1, 3])].contiguous()
    packed.cu_q = torch.tensor([0, 1, 4, 4, 5], dtype=torch.int32)  # three of the second, none of the third
    out, lse = packed.run()
    assert torch.equal(out[[0, 4]], whole[[0, 3]])
    assert torch.all(out[1:4] == RED)
    assert torch.all(lse[1:4] == RED)


def test_bits_depend_neither_on_threads_nor_on_other_sequences() -> None:
    case = Case([300, 1, 64, 190, 257, 33], kv_heads=5, group=3, dim=64, value_dim=64)
    one, _ = case.run()
    torch.set_num_threads(2)
    two, _ = case.run()
    assert torch.equal(one, two)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for s in range(len(case.lengths)):
            alone = Case([1], kv_heads=5, group=3, dim=64, value_dim=64)
            alone.lengths, alone.seq_lens = case.lengths[s : s + 1], case.seq_lens[s : s + 1]
            alone.k, alone.v, alone.q, alone.tables = case.k, case.v, case.q[s : s + 1], case.tables[s : s + 1]
            assert torch.equal(alone.run()[0], one[s : s + 1])


def test_bad_sizes_and_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="head_dim and value_dim must be at most 1024, got 1025 and 8"):
        Case([3], dim=1025).run()
    with pytest.raises(ValueError, match="head_dim and value_dim must be at most 1024, got 8 and 1025"):
        Case([3], value_dim=1025).run()
    assert kernels.MAX_HEAD_DIM == 1024
