"""Signatures as text: what can be written, what cannot, and what is read from it."""

from __future__ import annotations

import pytest
import torch

from aphrodite.ops.op import op, unknown_arguments
from aphrodite.ops.schema import Arg, Attr, parse
from aphrodite.ops.table import COMPOSITES, OPS


def test_every_part_of_the_grammar_is_read() -> None:
    schema = parse(
        "out[T,H] A!, cache[Hk,D,Dv] KVView X!, w[N,K] Packed A, src[m,H] Table A, lse[T] f32!?, cu_q[S+1] i32, "
        "rows Rows!, eps: float, kind: str = 'silu', offset: int = 0, flag: bool = True"
    )
    assert schema.args == (
        Arg("out", "tensor", ("T", "H"), "A", True, False),
        Arg("cache", "KVView", ("Hk", "D", "Dv"), "X", True, False),
        Arg("w", "Packed", ("N", "K"), "A", False, False),
        Arg("src", "Table", ("m", "H"), "A", False, False),
        Arg("lse", "tensor", ("T",), "f32", True, True),
        Arg("cu_q", "tensor", ("S+1",), "i32", False, False),
        Arg("rows", "Rows", (), "i32", True, False),
    )
    assert schema.attrs == (
        Attr("eps", float, None, True),
        Attr("kind", str, "silu", False),
        Attr("offset", int, 0, False),
        Attr("flag", bool, True, False),
    )
    assert schema.dims == {"T", "H", "Hk", "D", "Dv", "N", "K", "m", "S+1"}
    assert schema.features == {"lse", "kind", "offset", "flag"}
    assert list(schema.by_name) == ["out", "cache", "w", "src", "lse", "cu_q", "rows", "eps", "kind", "offset", "flag"]


@pytest.mark.parametrize("text", ["x[T] A, y[T] A", "x[ T ] A,\n   y[T]  A", "x[T] A,  y[T] A"])
def test_white_space_between_parts_is_free(text: str) -> None:
    assert [arg.name for arg in parse(text).args] == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x", "x"),
        ("x[T]", "x[T]"),
        ("x[T] A, y Row", "y Row"),
        ("x[T A", "x[T A"),
        ("x[T] A?!", "x[T] A?!"),
        ("x[T] Paged A", "x[T] Paged A"),
        ("eps: number", "eps: number"),
        ("rows Row", "rows Row"),
        ("eps float", "eps float"),
        ("", ""),
    ],
)
def test_what_does_not_follow_the_grammar_is_named(text: str, part: str) -> None:
    with pytest.raises(ValueError, match="cannot read") as caught:
        parse(text)
    assert repr(part) in str(caught.value)


def test_a_name_stands_once() -> None:
    with pytest.raises(ValueError, match="a name stands twice"):
        parse("x[T] A, x[T] A")


def test_a_form_must_take_what_the_schema_requires_and_nothing_else() -> None:
    schema = parse("out[T] A!, x[T] A, bias[T] A?, eps: float, offset: int = 0")

    def right(out: torch.Tensor, x: torch.Tensor, eps: float) -> None: ...

    def wide(
        out: torch.Tensor, x: torch.Tensor, eps: float, bias: object, offset: int, max_q: int, max_k: int
    ) -> None: ...

    def short(out: torch.Tensor, eps: float) -> None: ...

    def strange(out: torch.Tensor, x: torch.Tensor, eps: float, stride: int) -> None: ...

    assert unknown_arguments(right, schema) is None and unknown_arguments(wide, schema) is None
    assert "does not take x" in (unknown_arguments(short, schema) or "")
    assert "takes stride" in (unknown_arguments(strange, schema) or "")
    with pytest.raises(ValueError, match="short does not take x"):
        op("wrong@1", schema.text)(short)


def test_every_operation_and_composite_has_a_version_and_a_doc_line() -> None:
    for name, item in {**OPS, **COMPOSITES}.items():
        assert item.name == name and name.partition("@")[2].isdigit() and item.doc, name


def test_the_operations_of_the_contract_are_all_here() -> None:
    assert set(OPS) == {
        "step_inputs@1", "step_slots@1", "table_positions@1", "draw_inputs@1", "commit_rows@1", "write_rows@1",
        "scale@1", "softcap@1",
        "add@1", "rms_norm@1", "head_norm@1", "layer_norm@1", "head_layer_norm@1", "act_mul@1", "act@1",
        "moe_route@1", "moe_experts@1", "rope@1", "linear@1", "gather_rows@1",
        "kv_write@1", "zero_blocks@1", "attn_plan@1", "attn_paged@1", "sample@1", "logprobs@1",
        "draw_limits@1", "edit_logits@1", "penalise_logits@1",
    }  # fmt: skip
    assert set(COMPOSITES) == {"add_rms_norm@1", "gate_up_act@1"}
