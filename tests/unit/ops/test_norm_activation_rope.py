"""Properties of the pointwise operations and of rotation that examples alone would not show."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from aphrodite.ops.activation import KINDS, act_mul
from aphrodite.ops.elementwise import scale, softcap
from aphrodite.ops.embedding import gather_rows
from aphrodite.ops.norm import add, head_norm, rms_norm
from aphrodite.ops.rope import rope

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_in_place_gives_the_same_bits(dtype: torch.dtype) -> None:
    x, w = randn(5, 33).to(dtype), randn(33, seed=1).to(dtype)
    out = torch.empty_like(x)
    rms_norm.reference(out, x, w, 1e-6, 1)
    rms_norm.reference(x, x, w, 1e-6, 1)
    assert torch.equal(out, x)
    assert ("out", "x") in rms_norm.aliases


def test_rms_norm_agrees_with_torch() -> None:
    x, w, out = randn(7, 24), randn(24, seed=1), torch.empty(7, 24)
    rms_norm.reference(out, x, w, 1e-5)
    torch.testing.assert_close(out, F.rms_norm(x, (24,), w, 1e-5))


def test_rms_norm_squares_in_float32_however_narrow_the_type() -> None:
    x = torch.full((1, 8), 300.0, dtype=torch.float16)  # 300 squared is no float16
    out = torch.empty_like(x)
    rms_norm.reference(out, x, torch.ones(8, dtype=torch.float16), 1e-6)
    assert torch.equal(out, torch.ones_like(out))


@pytest.mark.parametrize("dtype", DTYPES)
def test_head_norm_is_rms_norm_of_every_head_and_touches_no_other(dtype: torch.dtype) -> None:
    qkv, w = randn(5, 3 * 8).to(dtype), randn(8, seed=1).to(dtype)
    before, expected = qkv.clone(), torch.empty(10, 8, dtype=dtype)
    rms_norm.reference(expected, before[:, 8:].reshape(10, 8), w, 1e-6, 1)
    head_norm.reference(qkv[:, 8:].view(5, 2, 8), w, 1e-6, 1)  # a view of the wider buffer, as a network has it
    assert torch.equal(qkv[:, 8:].reshape(10, 8), expected)
    assert torch.equal(qkv[:, :8], before[:, :8])


def test_softcap_bounds_keeps_small_values_and_is_odd() -> None:
    x = torch.tensor([[0.01, -0.01, 3.0, 1e9, -1e9]], dtype=torch.float64)
    softcap.reference(x, 5.0)
    assert x[0, :2].tolist() == pytest.approx([0.01, -0.01], rel=1e-5)
    assert x[0, 2:].tolist() == pytest.approx([5 * math.tanh(0.6), 5.0, -5.0])


def test_scale_rounds_once() -> None:
    x = torch.tensor([[3.0, 1.0]], dtype=torch.bfloat16)
    scale.reference(x, 55.5)
    assert x.tolist() == [[166.0, 55.5]]  # 166.5 lies between 166 and 167: to even


def test_eps_stands_inside_the_root() -> None:
    x, out = torch.zeros(1, 4, dtype=torch.float64), torch.empty(1, 4, dtype=torch.float64)
    x[0, 0] = 2e-3
    rms_norm.reference(out, x, torch.ones(4, dtype=torch.float64), 3e-6)
    assert out[0, 0].item() == pytest.approx(2e-3 / math.sqrt(1e-6 + 3e-6), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_act_mul_agrees_with_torch(kind: str) -> None:
    x, out = randn(6, 40, seed=2) * 5, torch.empty(6, 20)
    act_mul.reference(out, x, kind)
    gate, up = x[:, :20], x[:, 20:]
    expected = {
        "silu": lambda: F.silu(gate) * up,
        "gelu_erf": lambda: F.gelu(gate) * up,
        "gelu_tanh": lambda: F.gelu(gate, approximate="tanh") * up,
        "swiglu_oai": lambda: gate.clamp(max=7) * (1.702 * gate.clamp(max=7)).sigmoid() * (up.clamp(-7, 7) + 1),
    }[kind]()
    torch.testing.assert_close(out, expected)


def test_add_rounds_once() -> None:
    res, x = torch.tensor([[256.0]], dtype=torch.bfloat16), torch.tensor([[3.0]], dtype=torch.bfloat16)
    add.reference(res, x)
    assert res.item() == 260.0  # 259 lies between 258 and 260: to even


@pytest.mark.parametrize("style", ["neox", "gptj"])
def test_rope_keeps_lengths_turns_by_differences_and_leaves_the_rest(style: str) -> None:
    dim, rotary = 12, 8
    frequency = 1.0 / 10000 ** (torch.arange(0, rotary, 2, dtype=torch.float64) / rotary)
    angle = torch.arange(50, dtype=torch.float64)[:, None] * frequency
    table = torch.cat((angle.cos(), angle.sin()), -1)
    q, k = randn(2, 1, dim).double(), randn(2, 1, dim, seed=1).double()
    q[1], k[1] = q[0], k[0]
    before = q.clone(), k.clone()
    rope.reference(q, k, torch.tensor([3, 23]), table, style)
    for now, then in zip((q, k), before, strict=True):
        assert torch.equal(now[..., rotary:], then[..., rotary:])
        assert not torch.equal(now[..., :rotary], then[..., :rotary])
        torch.testing.assert_close(now.norm(dim=-1), then.norm(dim=-1))
    other_q, other_k = before[0].clone(), before[1].clone()
    rope.reference(other_q, other_k, torch.tensor([10, 30]), table, style)
    for a, b in ((0, 0), (0, 1), (1, 0)):  # q.k depends on the distance of their positions alone
        torch.testing.assert_close(q[a, 0] @ k[b, 0], other_q[a, 0] @ other_k[b, 0])


def test_the_two_rope_styles_pair_different_dimensions() -> None:
    turned = torch.tensor([[0.0, 0.0, 1.0, 1.0]])  # cosines 0, sines 1: a quarter turn of each pair
    for style, expected in (("neox", [-3.0, -4.0, 1.0, 2.0]), ("gptj", [-2.0, 1.0, -4.0, 3.0])):
        q = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
        rope.reference(q, torch.zeros(1, 0, 4), torch.tensor([0]), turned, style)
        assert q.flatten().tolist() == expected, style


def test_rope_writes_through_views_of_a_wider_buffer() -> None:
    qkv = randn(3, 5 * 4)
    q, k = qkv[:, :8].view(3, 2, 4), qkv[:, 8:12].view(3, 1, 4)
    alone = q.clone(), k.clone()
    angle = randn(9, 2)
    table = torch.cat((angle.cos(), angle.sin()), -1)
    tail = qkv[:, 12:].clone()
    rope.reference(q, k, torch.tensor([1, 8, 0]), table, "neox")
    rope.reference(*alone, torch.tensor([1, 8, 0]), table, "neox")
    assert torch.equal(qkv, torch.cat((alone[0].flatten(1), alone[1].flatten(1), tail), 1))


def test_an_inert_token_reads_no_row_but_the_first() -> None:
    out = torch.empty(2, 3)
    gather_rows.reference(out, torch.arange(6.0).view(2, 3), torch.tensor([-1, 1]))
    assert out.tolist() == [[0, 1, 2], [3, 4, 5]]
