"""Recording: what a call binds, what it makes, what it refuses, and the facts it leaves for constraints."""

from __future__ import annotations

from typing import Any

import pytest

from aphrodite.errors import ShapeError
from aphrodite.ops.activation import act_mul
from aphrodite.ops.attention import attn_paged, attn_plan
from aphrodite.ops.embedding import gather_rows
from aphrodite.ops.kernel import Dims, Extent
from aphrodite.ops.linear import linear
from aphrodite.ops.norm import rms_norm
from aphrodite.platform.dtypes import ITEMSIZE
from aphrodite.program.trace import Tracer
from aphrodite.program.values import KVRef, Value, WeightRef, new_value
from tests.unit.program.parts import forward

T, S = Extent("T"), Extent("S")
VECTOR, LENGTHS = WeightRef("w", (64,), "f32"), new_value((S,), "i32")


def x(width: int = 64, dtype: str = "f32") -> Value:
    return new_value((T, width), dtype)


def test_outputs_take_sizes_and_types_from_what_goes_in() -> None:
    t = Tracer("p")
    y = t.call(linear, "a", x=x(64, "bf16"), w=WeightRef("w", (96, 64), "bf16"))
    assert y.shape == (T, 96) and y.dtype == "bf16" and y.base is y and y.name == ""
    wide = t.call(linear, "b", x=x(64, "bf16"), w=WeightRef("w", (96, 64), "bf16"), dtypes={"X": "f32"})
    assert wide.dtype == "f32"
    half = t.call(act_mul, "c", x=y, kind="silu", sizes={"I": 48})
    assert half.shape == (T, 48)
    assert [call.site for call in t.finish().calls] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        (lambda t: t.call(linear, "s", x=x(64), w=WeightRef("w", (96, 32), "f32")), ("K=32", "64")),
        (lambda t: t.call(rms_norm, "s", x=x(64), w=WeightRef("w", (63,), "f32"), eps=1e-5), ("H=63", "64")),
        (lambda t: t.call(rms_norm, "s", out=x(32), x=x(64), w=WeightRef("w", (64,), "f32"), eps=1e-5), ("H=64", "32")),
        (lambda t: t.call(linear, "s", x=x(64, "bf16"), w=WeightRef("w", (96, 64), "f32")), ("f32", "bf16")),
        (lambda t: t.call(gather_rows, "s", src=x(), idx=new_value((S,), "i32")), ("i32", "i64")),
        (lambda t: t.call(rms_norm, "s", x=new_value((T,), "f32"), w=VECTOR, eps=1e-5), ("1 axes", "[T, H]")),
        (lambda t: t.call(rms_norm, "s", x=x(64), w=WeightRef("w", (64,), "f32")), ("eps", "missing")),
        (lambda t: t.call(rms_norm, "s", x=x(64), eps=1e-5), ("w", "missing")),
        (lambda t: t.call(rms_norm, "s", x=x(64), w=VECTOR, eps=1e-5, bias=None), ("no argument bias", "s")),
        (lambda t: t.call(act_mul, "s", x=x(64), kind="silu"), ("size I of out", "nothing")),
        (lambda t: t.call(attn_plan, "s", seq_lens=LENGTHS, cu_q=LENGTHS, sizes={"P": 0}), ("S+1", "plus=1")),
    ],
)  # fmt: skip
def test_a_call_that_cannot_be_names_both_numbers_and_the_site(given: Any, numbers: tuple[str, str]) -> None:
    t = Tracer("p")
    with pytest.raises(ShapeError) as caught:
        given(t)
    assert " at s" in str(caught.value)
    for number in numbers:
        assert number in str(caught.value)
    assert not t.calls, "what was refused is not recorded"


def test_s_plus_1_is_one_more_than_s() -> None:
    t = Tracer("p")
    cu_q = new_value((Extent("S", plus=1),), "i32")
    meta = t.call(attn_plan, "plan", seq_lens=new_value((S,), "i32"), cu_q=cu_q, sizes={"P": 3})
    assert meta.shape == (3,)
    assert cu_q.sizes(Dims(S=4)) == (5,)
    with pytest.raises(ShapeError, match=r"S\+1=7, others 9"):
        t.call(attn_plan, "plan", seq_lens=new_value((8,), "i32"), cu_q=new_value((7,), "i32"), sizes={"P": 3})


def attention(t: Tracer, **more: Any) -> dict[str, Any]:
    t.call(
        attn_paged,
        "attn",
        q=new_value((T, 4, 8), "f16"),
        cache=KVRef(0, 0, 2, 8, 8, "f16"),
        tables=new_value((S, 5), "i32"),
        seq_lens=new_value((S,), "i32"),
        cu_q=new_value((Extent("S", plus=1),), "i32"),
        meta=new_value((0,), "i32"),
        scale=0.5,
        **more,
    )
    return dict(t.calls[-1].facts)


def test_facts_hold_sizes_types_attributes_and_the_features_in_use() -> None:
    facts = attention(Tracer("p"))
    wanted = {"T": T, "S": S, "Hq": 4, "Hk": 2, "D": 8, "Dv": 8, "dtype": "f16", "A": "f16", "X": "f16", "scale": 0.5}
    assert wanted.items() <= facts.items()
    assert facts["window"] == 0 and facts["causal"] is True and facts["features"] == frozenset()
    assert "S+1" not in facts
    sinks = new_value((4,), "f16")
    used = attention(Tracer("p"), window=4, causal=False, sinks=sinks, lse=new_value((T, 4), "f32"))
    assert used["features"] == {"window", "causal", "sinks", "lse"}
    assert attention(Tracer("p"), window=0, softcap=0.0)["features"] == frozenset()


def test_two_outputs_come_back_in_the_order_of_the_schema() -> None:
    _, program = forward()
    call = program.calls[0]
    assert call.op.name == "step_inputs@1"
    assert [name for name, value in call.args.items() if isinstance(value, Value) and value.name] == [
        "draw_rows", "forced", "seq_rows", "num_new", "num_logits", "draws",
    ]  # fmt: skip


def test_views_share_the_memory_of_their_base() -> None:
    qkv = x(12)
    q, k = qkv.columns(0, 8), qkv.columns(8, 12)
    heads = q.heads(2)
    assert q.base is k.base is heads.base is qkv
    assert heads.shape == (T, 2, 4) and heads.strides() == (12, 4, 1) and heads.offset == 0
    assert k.shape == (T, 4) and k.strides() == (12, 1) and k.offset == 8
    assert k.columns(1, 3).offset == 9
    assert heads.flat().shape == (T, 8) and heads.flat().strides() == (12, 1)
    assert heads.sizes(Dims(T=3)) == (3, 2, 4) and heads.extent == T and new_value((3,), "f32").extent is None
    with pytest.raises(AssertionError):
        q.heads(3)
    with pytest.raises(AssertionError):
        new_value((4, T), "f32")


def test_extents_are_times_and_plus() -> None:
    assert Extent("S", times=2, plus=3).at(Dims(S=5)) == 13
    assert set(ITEMSIZE) >= {"f32", "bf16", "f16", "i64", "i32", "u8"}


@pytest.mark.parametrize("tied", [False, True])
def test_the_decoder_records_the_network_of_its_spec(tied: bool) -> None:
    decoder, program = forward(layers=3, tied=tied)
    ops = [call.op.name.partition("@")[0] for call in program.calls]
    layer = ["linear", "rope", "kv_write", "attn_paged", "linear", "add", "rms_norm", "linear", "act_mul", "linear"]
    head = ["step_inputs", "step_slots", "attn_plan", "gather_rows", "rms_norm"]
    between = ["add", "rms_norm"]
    end = ["gather_rows", "gather_rows", "add", "rms_norm", "linear"]
    assert ops == [*head, *layer, *between, *layer, *between, *layer, *end]
    assert ("head.weight" in decoder.parameters) is not tied
    sources = [source.tensor for parameter in decoder.parameters.values() for source in parameter.sources]
    assert len(sources) == len(set(sources)) == 2 + 3 * (2 + 4 + 3 + 3) + (not tied)
    assert program.externals["logits"].sizes(Dims(R=3)) == (3, 50)
