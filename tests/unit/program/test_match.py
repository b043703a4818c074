"""Composites: which runs of calls are one, and which only look alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aphrodite.ops.activation import act_mul, gate_up_act
from aphrodite.ops.composite import Recorder, composite
from aphrodite.ops.kernel import Extent
from aphrodite.ops.linear import linear
from aphrodite.ops.norm import add, add_rms_norm, rms_norm
from aphrodite.program.buffers import lifetimes
from aphrodite.program.match import Pattern
from aphrodite.program.trace import Call, Program, Tracer
from aphrodite.program.values import Value, WeightRef
from tests.unit.program.parts import forward

T = Extent("T")
W = WeightRef("w", (8,), "f32")
GATE_UP, BIAS = WeightRef("gate_up", (32, 8), "f32"), WeightRef("bias", (32,), "f32")


def found(program: Program, whole: Any) -> list[tuple[int, Call]]:
    """Where a composite matches, with the call it would be."""
    last_use = {value: last for value, (_, last) in lifetimes(program.calls).items()}
    pattern = Pattern(whole)
    calls = [(index, pattern.match(program.calls, index, last_use)) for index in range(len(program.calls))]
    return [(index, call) for index, call in calls if call is not None]


def recorded(body: Callable[[Tracer, Value], None]) -> Program:
    t = Tracer("p")
    body(t, t.external("x", (T, 8), "f32"))
    return t.finish()


@pytest.mark.parametrize("layers", [1, 3])
def test_a_decoder_holds_both_composites_at_every_layer(layers: int) -> None:
    _, program = forward(layers=layers)
    norms, mlps = found(program, add_rms_norm), found(program, gate_up_act)
    assert [call.site for _, call in mlps] == [f"layers.{i}.mlp.gate_up" for i in range(layers)]
    sites = [f"layers.{i}.mlp_norm.add" for i in range(layers)]
    sites += [f"layers.{i}.attention_norm.add" for i in range(1, layers)] + ["final_norm.add"]
    assert sorted(call.site for _, call in norms) == sorted(sites)
    for index, call in norms:
        first, second = program.calls[index], program.calls[index + 1]
        assert call.args["res"] is first.args["res"] and call.args["x"] is first.args["x"] is second.args["out"]
        assert call.args["w"] == second.args["w"] and call.facts["H"] == 24 and call.facts["eps"] == 1e-5
    for index, call in mlps:
        assert call.args["out"] is program.calls[index + 1].args["out"]
        assert call.args["w"] == program.calls[index].args["w"]
        assert call.facts["N"] == 64 and call.facts["I"] == 32 and call.facts["features"] == frozenset()


def test_an_optional_argument_of_the_run_is_a_feature_of_the_composite() -> None:
    def body(t: Tracer, x: Value) -> None:
        t.call(act_mul, "b", x=t.call(linear, "a", x=x, w=GATE_UP, bias=BIAS), kind="silu", sizes={"I": 16})

    ((_, call),) = found(recorded(body), gate_up_act)
    assert call.args["bias"] == BIAS and call.facts["features"] == {"bias"} and call.facts["kind"] == "silu"


def test_a_value_that_is_used_again_later_is_not_swallowed() -> None:
    def body(t: Tracer, x: Value) -> None:
        inner = t.call(linear, "a", x=x, w=GATE_UP)
        t.call(act_mul, "b", x=inner, kind="silu", sizes={"I": 16})
        t.call(act_mul, "c", x=inner, kind="gelu_erf", sizes={"I": 16})

    assert found(recorded(body), gate_up_act) == []


def test_a_view_of_it_used_later_counts_too() -> None:
    def body(t: Tracer, x: Value) -> None:
        inner = t.call(linear, "a", x=x, w=GATE_UP)
        y = t.call(act_mul, "b", x=inner, kind="silu", sizes={"I": 16})
        t.call(add, "c", res=y, x=inner.columns(0, 16))

    assert found(recorded(body), gate_up_act) == []


def test_a_value_that_the_caller_reads_is_not_swallowed() -> None:
    def body(t: Tracer, x: Value) -> None:
        inner = t.external("inner", (T, 32), "f32")
        t.call(linear, "a", out=inner, x=x, w=GATE_UP)
        t.call(act_mul, "b", x=inner, kind="silu", sizes={"I": 16})

    assert found(recorded(body), gate_up_act) == []


def test_calls_in_another_order_are_another_run() -> None:
    def body(t: Tracer, x: Value) -> None:
        res = t.call(rms_norm, "0", x=x, w=W, eps=1e-5)
        t.call(rms_norm, "1", out=x, x=res, w=W, eps=1e-5)
        t.call(add, "2", res=res, x=x)

    assert found(recorded(body), add_rms_norm) == []


def test_a_call_in_between_breaks_the_run() -> None:
    def body(t: Tracer, x: Value) -> None:
        res = t.call(rms_norm, "0", x=x, w=W, eps=1e-5)
        t.call(add, "1", res=res, x=x)
        t.call(add, "2", res=res, x=x)
        t.call(rms_norm, "3", out=x, x=res, w=W, eps=1e-5)

    assert [index for index, _ in found(recorded(body), add_rms_norm)] == [2]


def test_arguments_that_do_not_agree_are_no_match() -> None:
    def another_output(t: Tracer, x: Value) -> None:
        res = t.call(rms_norm, "0", x=x, w=W, eps=1e-5)
        t.call(add, "1", res=res, x=x)
        t.call(rms_norm, "2", x=res, w=W, eps=1e-5)  # writes a new value, not x

    def another_input(t: Tracer, x: Value) -> None:
        res = t.call(rms_norm, "0", x=x, w=W, eps=1e-5)
        other = t.call(rms_norm, "1", x=x, w=W, eps=1e-5)
        t.call(add, "2", res=res, x=x)
        t.call(rms_norm, "3", out=x, x=other, w=W, eps=1e-5)

    assert found(recorded(another_output), add_rms_norm) == []
    assert found(recorded(another_input), add_rms_norm) == []


def test_an_attribute_that_the_body_fixes_must_be_that_very_value() -> None:
    @composite("silu_mlp@1", "out[M,I] A!, x[M,K] A, w[N,K] Packed A")
    def silu_mlp(t: Recorder, out: object, x: object, w: object) -> None:
        t.call(act_mul, "", out=out, x=t.call(linear, "", x=x, w=w), kind="silu")

    def body(t: Tracer, x: Value) -> None:
        for kind, bias in (("silu", None), ("gelu_erf", None), ("silu", BIAS)):
            inner = t.call(linear, kind, x=x, w=GATE_UP, bias=bias)
            t.call(act_mul, kind, x=inner, kind=kind, sizes={"I": 16})

    program = recorded(body)
    assert [index for index, _ in found(program, silu_mlp)] == [0], "another kind, or a bias, is another run"
    assert [index for index, _ in found(program, gate_up_act)] == [0, 2, 4]


def test_one_argument_may_not_stand_for_two() -> None:
    """add(x, x) then norm in place: a kernel of add_rms_norm may count on x and res being different memory."""

    def body(t: Tracer, x: Value) -> None:
        y = t.call(rms_norm, "0", x=x, w=W, eps=1e-5)
        t.call(add, "1", res=y, x=y)
        t.call(rms_norm, "2", out=y, x=y, w=W, eps=1e-5)

    assert found(recorded(body), add_rms_norm) == []


def test_a_run_cut_off_by_the_end_is_no_match() -> None:
    def body(t: Tracer, x: Value) -> None:
        t.call(linear, "a", x=x, w=GATE_UP)

    assert found(recorded(body), gate_up_act) == []
