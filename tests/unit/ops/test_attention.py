"""Paged attention against dense attention in float64, and what must not matter to it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from aphrodite.ops.attention import attn_paged, kv_write
from aphrodite.platform.layout import HND, NHD, KVLayout, KVView
from tests.unit.ops.truth import attn_paged as dense
from tests.unit.ops.truth import cells, copy_of, kv_view

ODD = KVLayout("odd", ("head", "kv", "token", "dim", "block"))
LAYOUTS = (NHD, HND, ODD)


def portable(**args: Any) -> None:
    assert attn_paged.portable is not None
    bounds = {
        "max_q": max(args["cu_q"].diff().tolist(), default=0),
        "max_k": max(args["seq_lens"].tolist(), default=0),
    }
    attn_paged.portable(**{**bounds, **args})


FORMS: dict[str, Callable[..., None]] = {"reference": attn_paged.reference, "portable": portable}


@dataclass
class Case:
    """Sequences of (new tokens, length) in one random paged cache; blocks are dealt in random order."""

    seqs: list[tuple[int, int]]
    heads: int = 4
    kv_heads: int = 2
    dim: int = 8
    value_dim: int = 8
    size: int = 4
    layout: KVLayout = NHD
    seed: int = 0
    more: dict[str, Any] = field(default_factory=dict)

    def args(self) -> dict[str, Any]:
        rng = np.random.default_rng(self.seed)
        count = [-(-length // self.size) for _, length in self.seqs]
        free = (rng.permutation(sum(count) + 3) + 1).tolist()
        tables = torch.zeros(len(self.seqs), max([*count, 1]) + 2, dtype=torch.int32)
        for s, n in enumerate(count):
            tables[s, :n] = torch.tensor([free.pop() for _ in range(n)], dtype=torch.int32)
        cells_shape = (sum(count) + 4, self.size, self.kv_heads)

        def normal(*shape: int) -> torch.Tensor:
            return torch.from_numpy(rng.normal(size=shape))

        tokens = sum(new for new, _ in self.seqs)
        return {
            "out": torch.full((tokens, self.heads, self.value_dim), torch.nan, dtype=torch.float64),
            "q": normal(tokens, self.heads, self.dim),
            "cache": kv_view(self.layout, normal(*cells_shape, self.dim), normal(*cells_shape, self.value_dim)),
            "tables": tables,
            "seq_lens": torch.tensor([length for _, length in self.seqs], dtype=torch.int32),
            "cu_q": torch.tensor([0, *itertools.accumulate(new for new, _ in self.seqs)], dtype=torch.int32),
            "meta": torch.empty(0, dtype=torch.int32),
            "scale": self.dim**-0.5,
            **self.more,
        }


def random_case(seed: int) -> Case:
    rng = random.Random(seed)
    group, kv_heads = rng.choice((1, 2, 3)), rng.choice((1, 2))
    lengths = [rng.randint(1, 23) for _ in range(rng.randint(1, 5))]
    seqs = [(rng.choice((1, length, rng.randint(1, length))), length) for length in lengths]
    if rng.random() < 0.3:
        seqs.insert(rng.randint(0, len(seqs)), (0, 0))
    tokens, heads = sum(new for new, _ in seqs), group * kv_heads
    more: dict[str, Any] = {
        "causal": rng.random() < 0.7,
        "window": rng.choice((0, 0, 1, 3, 100)),
        "softcap": rng.choice((0.0, 0.0, 2.0)),
        "sinks": torch.randn(heads, dtype=torch.float64) if rng.random() < 0.4 else None,
        "lse": torch.full((tokens, heads), torch.nan, dtype=torch.float64) if rng.random() < 0.5 else None,
    }
    return Case(
        seqs,
        heads=heads,
        kv_heads=kv_heads,
        value_dim=rng.choice((8, 5)),
        size=rng.choice((1, 4, 16)),
        layout=rng.choice(LAYOUTS),
        seed=seed,
        more=more,
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(40))
def test_paged_attention_is_dense_softmax_attention(form: str, seed: int) -> None:
    args = random_case(seed).args()
    expected = dense(**args)
    FORMS[form](**args)
    for name, (value, _) in expected.items():
        np.testing.assert_allclose(args[name].numpy(), value, rtol=1e-9, atol=1e-9, err_msg=f"{name}, seed {seed}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "more", [{}, {"window": 3}, {"softcap": 1.0}, {"causal": False}, {"sinks": torch.ones(4, dtype=torch.float64)}]
)
def test_every_option_changes_the_answer(form: str, more: dict[str, Any]) -> None:
    plain, changed = Case([(5, 9)]).args(), Case([(5, 9)], more=more).args()
    FORMS[form](**plain)
    FORMS[form](**changed)
    assert torch.equal(plain["out"], changed["out"]) == (not more)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("seed", range(4))
def test_nan_in_free_slots_changes_nothing(form: str, layout: KVLayout, seed: int) -> None:
    args = Case([(3, 9), (1, 4), (6, 6)], layout=layout, seed=seed).args()
    clean = {**args, "out": args["out"].clone()}
    FORMS[form](**clean)
    cache: KVView = copy_of(args["cache"])
    keys, values = cache.canonical()
    used = torch.zeros(keys.shape[:2], dtype=torch.bool)
    for s, length in enumerate(args["seq_lens"].tolist()):
        for j in range(length):
            used[int(args["tables"][s, j // 4]), j % 4] = True
    keys[~used], values[~used] = torch.nan, torch.inf
    FORMS[form](**{**args, "cache": cache})
    assert torch.equal(args["out"], clean["out"]) and not clean["out"].isnan().any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tail", ["a block of NaN", "stale ids beyond the cache", "-1"])
def test_table_entries_past_the_length_are_not_read(form: str, tail: str) -> None:
    args = Case([(2, 3), (9, 17)]).args()  # one sequence needs 1 block, the other 5
    clean = {**args, "out": args["out"].clone()}
    FORMS[form](**clean)
    keys, values = args["cache"].canonical()
    unused = next(b for b in range(1, len(keys)) if b not in args["tables"])
    keys[unused], values[unused] = torch.nan, torch.nan
    dirty = args["tables"].clone()
    for s, length in enumerate(args["seq_lens"].tolist()):
        dirty[s, -(-length // 4) :] = {"a block of NaN": unused, "-1": -1}.get(tail, 10_000)
    FORMS[form](**{**args, "tables": dirty})
    assert torch.equal(args["out"], clean["out"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", [1, 4, 6])
def test_blocks_before_every_window_are_not_read(form: str, window: int) -> None:
    seqs = [(2, 3), (3, 17), (1, 9), (12, 12)]
    args = Case(seqs, more={"window": window}).args()
    clean = {**args, "out": args["out"].clone()}
    FORMS[form](**clean)
    keys, values = args["cache"].canonical()
    dirty = args["tables"].clone()
    for s, (new, length) in enumerate(seqs):
        block, rest = divmod(max(0, length - new - window + 1), 4)  # of the first key that a query sees
        keys[args["tables"][s, block], :rest] = torch.nan
        values[args["tables"][s, block], :rest] = torch.nan
        dirty[s, :block] = 10_000
    FORMS[form](**{**args, "tables": dirty})
    assert torch.equal(args["out"], clean["out"]) and not clean["out"].isnan().any()


def test_padding_sequences_and_tokens_change_nothing_in_the_portable_form() -> None:
    """Padded to 8 sequences and 16 tokens: padding sequences have no tokens, padding tokens belong to no sequence."""
    lse = torch.zeros(11, 4, dtype=torch.float64)
    args = Case([(2, 3), (9, 17)], more={"lse": lse}).args()
    padded = {
        **args,
        "out": torch.full((16, 4, 8), torch.nan, dtype=torch.float64),
        "lse": torch.zeros(16, 4, dtype=torch.float64),
        "q": torch.cat((args["q"], torch.full((5, 4, 8), torch.nan, dtype=torch.float64))),
        "tables": torch.cat((args["tables"], torch.zeros(6, args["tables"].shape[1], dtype=torch.int32))),
        "seq_lens": torch.cat((args["seq_lens"], torch.zeros(6, dtype=torch.int32))),
        "cu_q": torch.cat((args["cu_q"], args["cu_q"][-1:].expand(6))),
        "max_q": 16,
        "max_k": 32,
    }
    keys, values = args["cache"].canonical()
    keys[0], values[0] = torch.nan, torch.nan
    portable(**args)
    portable(**padded)
    torch.testing.assert_close(padded["out"][:11], args["out"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(padded["lse"][:11], args["lse"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_cutting_a_prompt_into_chunks_changes_nothing(form: str) -> None:
    args = Case([(13, 13)]).args()
    FORMS[form](**args)
    whole, out = args["out"].clone(), torch.empty_like(args["out"])
    for start, stop in ((0, 1), (1, 6), (6, 13)):
        part = {
            **args,
            "q": args["q"][start:stop],
            "out": out[start:stop],
            "seq_lens": torch.tensor([stop], dtype=torch.int32),
            "cu_q": torch.tensor([0, stop - start], dtype=torch.int32),
        }
        FORMS[form](**part)
    torch.testing.assert_close(out, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_to_do_is_no_error_and_writes_nothing(form: str) -> None:
    for seqs in ([], [(0, 0), (0, 0)], [(0, 5)]):
        args = Case(seqs).args()
        args["out"] = torch.full((0, 4, 8), torch.nan, dtype=torch.float64)
        FORMS[form](**args)


# ---- kv_write -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_kv_write_fills_its_slots_and_block_0_and_nothing_else(layout: KVLayout, dtype: torch.dtype, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    blocks, size, heads = 6, 4, 2
    cache = kv_view(
        layout,
        torch.randn(blocks, size, heads, 8, generator=g).to(dtype),
        torch.randn(blocks, size, heads, 5, generator=g).to(dtype),
    )
    k, v = torch.randn(7, heads, 8, generator=g), torch.randn(7, heads, 5, generator=g)
    slots = torch.randperm((blocks - 1) * size, generator=g)[:7] + size
    slots[[2, 5]] = -1
    before = [x.copy() for x in cells(cache)]
    kv_write.reference(cache, k, v, slots)
    for now, then, given in zip(cells(cache), before, (k, v), strict=True):
        for token, slot in enumerate(slots.tolist()):
            if slot >= 0:
                then[slot // size, slot % size] = given[token].to(dtype).double().numpy()
        assert (now[1:] == then[1:]).all()
        assert (now[0, 1:] == then[0, 1:]).all(), "an inert token may touch the first slot of block 0 only"


def test_kv_write_then_attention_is_attention_over_what_was_written() -> None:
    args = Case([(6, 6)], layout=ODD).args()
    keys, values = args["cache"].canonical()
    blocks = args["tables"][0].long()
    k, v = keys[blocks].flatten(0, 1)[:6].clone(), values[blocks].flatten(0, 1)[:6].clone()
    expected = dense(**args)["out"][0]
    keys.fill_(torch.nan)
    values.fill_(torch.nan)
    slots = torch.tensor([int(blocks[j // 4]) * 4 + j % 4 for j in range(6)])
    kv_write.reference(args["cache"], k, v, slots)
    attn_paged.reference(**args)
    np.testing.assert_allclose(args["out"].numpy(), expected, rtol=1e-12, atol=1e-12)
