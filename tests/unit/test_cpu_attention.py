"""The CPU plugin's attention against float64: every example of the operation and all its features, decode steps of
sequences of many lengths, chunks smaller than a sequence, and memory that holds NaN where nobody may look."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import aphrodite_cpu.attention as cpu
from aphrodite.ops.attention import attn_paged, make_cache
from aphrodite.ops.kernel import Dims, Extent
from aphrodite.ops.op import declared
from aphrodite.platform.dtypes import torch_dtype
from aphrodite.platform.layout import HND, NHD, KVLayout
from tests.unit.ops.truth import copies, exact, truth

EPS = {"f32": torch.finfo(torch.float32).eps, "bf16": 2**-8, "f16": 2**-11}
NAMES = {torch_dtype(name): name for name in EPS}
RED = 7.0
MORE: tuple[dict[str, Any], ...] = (
    {},
    {"window": 1},
    {"window": 7},
    {"softcap": 2.0},
    {"softcap": 2.0, "window": 7},
    {"softcap": 1.0, "causal": False},
    {"causal": False, "window": 3},
)


def attend(args: dict[str, Any]) -> None:
    """The kernel on the arguments of the operation."""
    args = {name: args.get(name) for name in declared(attn_paged.reference)}
    view, q = args["cache"], args["q"]
    k, v = view.canonical()
    sizes = {"Hq": q.shape[1], "Hk": k.shape[2], "D": k.shape[3], "Dv": v.shape[3]}
    facts = {**sizes, "X": NAMES[k.dtype], "dtype": NAMES[q.dtype]}
    dims = Dims(T=q.shape[0], S=len(args["seq_lens"]))
    assert cpu.ATTENTION.workspace is not None
    size = cpu.ATTENTION.workspace(facts, dims).scratch_bytes
    scratch = torch.full((size,), 255, dtype=torch.uint8)  # NaN in every type
    site = SimpleNamespace(args=args, facts=facts, extents={"seq_lens": Extent("S")}, scratch=scratch)
    cpu.bind(cast("Any", site))(dims)


def check(given: dict[str, Any], label: object) -> None:
    """Both results within the operation's tolerance of the truth; rows of padding as they were."""
    args = copies(given)
    args["out"].fill_(RED)
    attend(args)
    num, dtype = int(given["cu_q"][-1]), NAMES[given["q"].dtype]
    answers = truth("attn_paged@1", given)
    for name in ("out", "lse"):
        if args.get(name) is None:
            continue
        value, scale = (x[:num] for x in answers[name])
        eps = EPS[dtype] if name == "out" else EPS["f32"]
        error = abs(exact(args[name])[:num] - value)
        assert (error <= 2 * attn_paged.tolerance.c * eps * scale).all(), (label, name, error.max())
    assert (args["out"][num:] == RED).all()


def make(
    seqs: list[tuple[int, int]],
    *,
    heads: tuple[int, int] = (4, 2),
    dim: int = 8,
    size: int = 4,
    layout: KVLayout = NHD,
    dtype: str = "f32",
    stored: str = "",
    padding: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Sequences (new tokens, length) with shuffled blocks; cells that no sequence has written hold NaN."""
    g = torch.Generator().manual_seed(len(seqs) + dim)
    kind, kept = torch_dtype(dtype), torch_dtype(stored or dtype)
    widths = [-(-length // size) for _, length in seqs]
    num_blocks = 1 + sum(widths)
    cache = make_cache(layout, num_blocks, size, heads[1], dim, torch.empty(0, dtype=kept))
    cells = cache.canonical()
    for half in cells:
        half.fill_(torch.nan)
    free = iter((torch.randperm(num_blocks - 1, generator=g) + 1).tolist())
    tables = torch.full((len(seqs), max(widths, default=1) + 1), num_blocks - 1, dtype=torch.int32)  # any, behind
    for s, (num, length) in enumerate(seqs):
        unseen = max(0, length - num - more["window"] + 1) // size if more.get("window") else 0
        for b in range(widths[s]):
            block = next(free)
            tables[s, b] = 0 if b < unseen else block
            held = min(size, length - b * size)
            for half in cells:
                if b >= unseen:
                    half[block, :held] = torch.randn(held, heads[1], dim, generator=g).to(kept)
    num_tokens = sum(num for num, _ in seqs) + padding
    return {
        "out": torch.empty(num_tokens, heads[0], dim, dtype=kind),
        "lse": torch.empty(num_tokens, heads[0]) if more.pop("lse", False) else None,
        "q": torch.randn(num_tokens, heads[0], dim, generator=g).to(kind),
        "cache": cache,
        "tables": tables,
        "seq_lens": torch.tensor([length for _, length in seqs], dtype=torch.int32),
        "cu_q": torch.tensor([0, *np.cumsum([num for num, _ in seqs])], dtype=torch.int32),
        "meta": torch.empty(0, dtype=torch.int32),
        "sinks": torch.randn(heads[0], generator=g).to(kind) if more.pop("sinks", False) else None,
        "scale": dim**-0.5,
        "causal": True,
        "window": 0,
        "softcap": 0.0,
    } | more


@pytest.mark.parametrize("dtype", sorted(EPS))
@pytest.mark.parametrize("more", MORE, ids=str)
def test_every_example_with_every_window_and_cap(dtype: str, more: dict[str, object]) -> None:
    assert attn_paged.examples is not None
    assert set(more) <= set(cpu.ATTENTION.where.features or ())
    for example in attn_paged.examples(dtype, len(more)):
        check({**example.args, **more}, example.label)


DECODE = [(1, n) for n in (1, 3, 4, 5, 17, 16, 40, 39, 2, 9, 12, 30)]
MIXED = [(3, 3), (1, 21), (5, 30), (0, 0), (1, 4), (2, 50), (1, 1), (17, 17)]


@pytest.mark.parametrize(
    "more", [{}, {"window": 7, "softcap": 2.0}, {"sinks": True, "lse": True, "window": 5}], ids=str
)
@pytest.mark.parametrize(("heads", "layout"), [((3, 3), NHD), ((5, 1), HND)], ids=str)
def test_sequences_of_many_lengths_beside_cells_of_nan(
    heads: tuple[int, int], layout: KVLayout, more: dict[str, Any]
) -> None:
    for seqs in (DECODE, MIXED):
        check(make(seqs, heads=heads, dim=5, layout=layout, padding=2, **more), seqs)


@pytest.mark.parametrize(
    "more", [{}, {"window": 9}, {"sinks": True, "lse": True}, {"causal": False, "softcap": 3.0}], ids=str
)
def test_sequences_longer_than_a_chunk(more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_LEAST_CHUNK", 8)
    monkeypatch.setattr(cpu, "_CHUNK_BYTES", 0)
    monkeypatch.setattr(cpu, "_QUERIES", 3)
    monkeypatch.setattr(cpu, "_FEWEST", 1)
    check(make([(1, 41), (7, 30), (20, 20), (1, 8), (1, 5)], **more), more)


@pytest.mark.parametrize(("dtype", "stored"), [("f32", "bf16"), ("bf16", "f32"), ("f16", "bf16")])
def test_a_cache_of_another_type(dtype: str, stored: str) -> None:
    check(make(MIXED, dtype=dtype, stored=stored), (dtype, stored))


def test_heads_wider_than_the_native_kernel_takes() -> None:
    check(make(MIXED, dim=1030, heads=(2, 1), lse=True), "torch's products alone")


def test_a_step_gives_the_same_bits_again() -> None:
    first, second = make(MIXED + DECODE), make(MIXED + DECODE)
    for args in (first, second):
        attend(args)
    assert torch.equal(first["out"], second["out"])
