"""Choosing kernels: order, rules, thresholds, refusals, weight layouts, composites, attention plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from aphrodite.errors import KernelError
from aphrodite.ops.constraints import C, between, ge, multiple
from aphrodite.ops.kernel import NATIVE, PORTABLE, SPECIALISED, Dims, Flag, Kernel
from aphrodite.ops.table import OPS
from aphrodite.platform.layout import WeightLayout
from aphrodite.platform.spi import Limits
from aphrodite.program.buckets import Buckets, buckets
from aphrodite.program.plan import Plan
from aphrodite.program.planner import Planner
from aphrodite.program.selection import torch_forms
from tests.unit.program.parts import BOUNDS, at, forward, planner, stub

EVERY = {name: op.schema.features for name, op in OPS.items()}


def chosen(plan: Plan, op: str, dims: Dims = BOUNDS) -> list[str]:
    """Providers that serve the calls of an operation (or composite)."""
    return [bound.kernel.provider for bound in plan.at(dims) if bound.call.op.name.partition("@")[0] == op]


def planned(*kernels: Kernel, program: Any = None, **settings: Any) -> Plan:
    return planner(kernels, **settings).plan(program or forward()[1])


def complete(*, leave_out: Sequence[str] = (), **changes: Mapping[str, Any]) -> list[Kernel]:
    """A kernel for every operation, each of which serves everything."""
    kernels = []
    for name, features in EVERY.items():
        short = name.partition("@")[0]
        if short not in leave_out:
            more = {"where": C(features=features), **changes.get(short, {})}
            kernels.append(stub(name, f"acme.{short}", **more))
    return kernels


# ---- order ----------------------------------------------------------------------------------------------------------


def test_without_kernels_the_torch_forms_serve_and_the_portable_one_comes_first() -> None:
    plan = planned()
    assert {b.kernel.provider for b in plan.at(BOUNDS)} == {"portable", "reference"}
    assert set(chosen(plan, "attn_paged")) == {"portable"} and set(chosen(plan, "rms_norm")) == {"reference"}


def test_the_higher_tier_wins_then_the_lower_name() -> None:
    kernels = [
        stub("rms_norm@1", "acme.zz", tier=NATIVE),
        stub("rms_norm@1", "acme.bb", tier=NATIVE),
        stub("rms_norm@1", "acme.aa", tier=PORTABLE),
    ]
    assert set(chosen(planned(*kernels), "rms_norm")) == {"acme.bb"}
    assert set(chosen(planned(*kernels, stub("rms_norm@1", "acme.zzz", tier=SPECIALISED)), "rms_norm")) == {"acme.zzz"}
    _, verdicts = planner(kernels).selector.decide(forward()[1].calls[4], BOUNDS, "plain")
    assert [(v.provider, v.chosen) for v in verdicts] == [
        ("acme.bb", True), ("acme.zz", False), ("acme.aa", False), ("reference", False),
    ]  # fmt: skip
    assert [v.reason for v in verdicts] == [
        "native 200, first that can", "same tier, name after acme.bb", "portable 100 below native 200",
        "torch form 0 below native 200",
    ]  # fmt: skip


# ---- the user's rules -----------------------------------------------------------------------------------------------

TWO = (stub("rms_norm@1", "acme.fast", tier=SPECIALISED), stub("rms_norm@1", "acme.slow", tier=PORTABLE))


@pytest.mark.parametrize(
    ("rule", "winner"),
    [
        (["acme.slow"], "acme.slow"),
        (["acme.s*", "acme.fast"], "acme.slow"),
        (["acme.*"], "acme.fast"),
        (["reference"], "reference"),
        (["*"], "acme.fast"),
    ],
)
def test_a_rule_comes_before_the_tier(rule: list[str], winner: str) -> None:
    assert set(chosen(planned(*TWO, rules={"rms_norm": rule}), "rms_norm")) == {winner}


def test_what_a_rule_does_not_list_is_not_taken() -> None:
    picky = stub("rms_norm@1", "acme.picky", where=C(H={64}))
    with pytest.raises(KernelError, match=r"no kernel for rms_norm@1 at layers\.0\.attention_norm") as caught:
        planned(picky, rules={"rms_norm": ["acme.picky"]})
    assert "acme.picky: H=24 not in {64}" in str(caught.value)
    assert caught.value.subject == "layers.0.attention_norm"
    assert set(chosen(planned(picky, rules={"rms_norm": ["acme.picky", "reference"]}), "rms_norm")) == {"reference"}


@pytest.mark.parametrize("rule", [["nobody.*"], ["acme.fast", "acme.fats"], ["Acme.fast"]])
def test_a_rule_for_an_unknown_kernel_is_an_error_that_lists_those_there_are(rule: list[str]) -> None:
    with pytest.raises(KernelError, match=r"kernels\.rms_norm asks for") as caught:
        planned(*TWO, rules={"rms_norm": rule})
    assert "acme.fast, acme.slow, reference" in str(caught.value) and caught.value.subject == "kernels.rms_norm"


def test_none_switches_a_composite_off() -> None:
    fused = stub("add_rms_norm@1", "acme.fused")
    assert set(chosen(planned(fused), "add_rms_norm")) == {"acme.fused"}
    off = planned(fused, rules={"add_rms_norm": ["none"]})
    assert chosen(off, "add_rms_norm") == [] and set(chosen(off, "add")) == {"reference"}


# ---- thresholds -----------------------------------------------------------------------------------------------------


def test_a_choice_depends_on_the_padded_bucket() -> None:
    plan = planned(stub("rms_norm@1", "acme.few", where=C(T=between(1, 8))), bounds=at(T=100))
    by_size = {t: chosen(plan, "rms_norm", at(T=t))[0] for t in (1, 7, 8, 9, 64, 100)}
    assert by_size == {1: "acme.few", 7: "acme.few", 8: "acme.few", 9: "reference", 64: "reference", 100: "reference"}
    listed = planned(
        stub("rms_norm@1", "acme.few", where=C(T=between(1, 8))), bounds=at(T=100), limits=Limits(token_buckets=(5, 10))
    )
    assert [chosen(listed, "rms_norm", at(T=t))[0] for t in (5, 6)] == ["acme.few", "reference"], "6 is padded to 10"


def test_buckets_are_powers_of_two_or_those_listed_and_always_the_bound() -> None:
    assert buckets(16) == (1, 2, 4, 8, 16) and buckets(17) == (1, 2, 4, 8, 16, 17)
    assert buckets(1) == (1,) and buckets(0) == (0,)
    assert buckets(100, (64, 16, 128)) == (16, 64, 100)
    sizes = Buckets(Dims(16, 4, 8, 64, 16, 32))
    assert sizes.of(Dims(T=9, S=3, R=1, max_q=16, max_k=20)) == Dims(16, 4, 1, 1, 16, 32)


def test_the_host_bounds_are_thresholds_of_attention() -> None:
    decode = stub("attn_paged@1", "acme.decode", where=C(max_q=1, max_k=between(1, 8)))
    plan = planned(decode)
    found = {(q, k): chosen(plan, "attn_paged", at(max_q=q, max_k=k))[0] for q in (1, 2) for k in (8, 9)}
    assert found == {(1, 8): "acme.decode", (1, 9): "portable", (2, 8): "portable", (2, 9): "portable"}


def test_a_predicate_is_asked_at_every_bucket_and_its_reason_shown() -> None:
    where = C(unless=lambda f: f"T={f['T']} is 4" if f["T"] == 4 else None)
    plan = planned(stub("rms_norm@1", "acme.odd", where=where))
    assert [chosen(plan, "rms_norm", at(T=t))[0] for t in (2, 3, 4, 5)] == [
        "acme.odd",
        "reference",
        "reference",
        "acme.odd",
    ]
    _, verdicts = plan.selector.decide(plan.program.calls[4], at(T=4), "plain")
    assert verdicts[0].reason == "T=4 is 4"


@pytest.mark.parametrize(
    ("where", "refusal"),
    [
        (C(D={64, 128}), "D=4 not in {128, 64}"),
        (C(Hq=multiple(8)), "Hq=4 not a multiple of 8"),
        (C(dtype={"bf16", "f16"}), "dtype=f32 not in {bf16, f16}"),
        (C(layout={"hnd"}), "layout=nhd not in {hnd}"),
        (C(arch=ge("v2")), "arch=v1 not >= v2"),
        (C(scale=1.0), "scale=0.5 not in {1.0}"),
    ],
)
def test_a_refusal_is_a_sentence_about_the_site(where: C, refusal: str) -> None:
    plan = planned(stub("attn_paged@1", "acme.flash", where=where))
    call = next(c for c in plan.program.calls if c.op.name == "attn_paged@1")
    _, verdicts = plan.selector.decide(call, BOUNDS, "plain")
    assert (verdicts[0].provider, verdicts[0].chosen, verdicts[0].reason) == ("acme.flash", False, refusal)
    assert verdicts[1].provider == "portable" and verdicts[1].chosen


def test_features_in_use_must_be_declared() -> None:
    plain, wide = (
        stub("linear@1", "acme.plain"),
        stub("linear@1", "acme.wide", where=C(features={"bias"}), tier=PORTABLE),
    )
    plan = planned(plain, wide)
    served = {b.call.site: b.kernel.provider for b in plan.at(BOUNDS) if b.call.op.name == "linear@1"}
    assert served["layers.0.attention.qkv"] == "acme.wide" and served["layers.0.attention.out"] == "acme.plain"
    call = next(c for c in plan.program.calls if c.site == "layers.0.attention.qkv")
    assert plan.selector.decide(call, BOUNDS, "plain")[1][0].reason == "feature bias not supported"


def test_torch_forms_serve_every_feature_and_read_plain_weights_only() -> None:
    for name, op in OPS.items():
        for kernel in torch_forms(op):
            facts = {"features": op.schema.features, "weights": "plain"}
            assert kernel.where.refusal(facts) is None, name
            packed = any(arg.kind in ("Packed", "Table") for arg in op.schema.args)
            assert (kernel.where.refusal({**facts, "weights": "tiled"}) is None) is not packed, name


def test_a_torch_form_that_reads_the_host_is_not_for_capture() -> None:
    safe = {name: [bool(form.flags & Flag.CAPTURE_SAFE) for form in torch_forms(op)] for name, op in OPS.items()}
    assert safe["moe_experts@1"] == [False, False] and safe["linear@1"] == [True, False]
    assert [name for name, flags in safe.items() if not flags[0]] == ["moe_experts@1"]


# ---- weight layouts -------------------------------------------------------------------------------------------------

TILED = WeightLayout("tiled", lambda n, k: (k, n))


def test_a_matrix_has_the_layout_that_the_best_kernels_read() -> None:
    tiled = stub("linear@1", "acme.tiled", where=C(weights="tiled", features={"bias"}))
    plan = planned(tiled, layouts=[TILED])
    assert set(chosen(plan, "linear")) == {"acme.tiled"}
    matrices = {name for name in plan.layouts if name != "embedding"}
    assert {plan.layouts[name] for name in matrices} == {"tiled"} and plan.layouts["embedding"] == "plain"
    better = stub("linear@1", "acme.plain", where=C(weights="plain", features={"bias"}), tier=SPECIALISED)
    assert set(planned(tiled, better, layouts=[TILED]).layouts.values()) == {"plain"}


def test_a_layout_that_some_size_cannot_read_is_not_taken() -> None:
    few = stub("linear@1", "acme.few", where=C(weights="tiled", M=between(1, 4), features={"bias"}), tier=SPECIALISED)
    assert set(planned(few, layouts=[TILED]).layouts.values()) == {"plain"}
    many = stub("linear@1", "acme.many", where=C(weights="tiled", features={"bias"}))
    plan = planned(few, many, layouts=[TILED])
    assert plan.layouts["head.weight"] == "tiled"
    assert [set(chosen(plan, "linear", at(T=t, R=t))) for t in (4, 8)] == [{"acme.few"}, {"acme.many"}]


def test_tied_weights_are_one_matrix_that_both_their_sites_must_read() -> None:
    program = forward(tied=True)[1]
    tiled = stub("linear@1", "acme.tiled", where=C(weights="tiled", features={"bias"}))
    plan = planned(tiled, program=program, layouts=[TILED])
    assert plan.layouts["embedding"] == "plain" and plan.layouts["layers.0.mlp.down.weight"] == "tiled"
    assert {b.call.site: b.kernel.provider for b in plan.at(BOUNDS)}["head"] == "portable"
    gather = stub("gather_rows@1", "acme.gather", where=C(weights="tiled"))
    both = planned(tiled, gather, program=program, layouts=[TILED])
    assert both.layouts["embedding"] == "tiled"
    assert {b.call.site: b.kernel.provider for b in both.at(BOUNDS)}["head"] == "acme.tiled"


def test_a_rule_that_leaves_no_common_layout_names_the_weight() -> None:
    tiled = stub("linear@1", "acme.tiled", where=C(weights="tiled", features={"bias"}))
    with pytest.raises(KernelError, match="no weight layout of embedding serves all its sites") as caught:
        planned(tiled, program=forward(tied=True)[1], layouts=[TILED], rules={"linear": ["acme.tiled"]})
    assert caught.value.subject == "embedding"


def test_a_composite_has_a_say_in_the_layout_of_its_matrix() -> None:
    linear = stub("linear@1", "acme.linear", where=C(features={"bias"}))  # reads any layout
    fused = stub("gate_up_act@1", "acme.fused", where=C(weights="tiled"), tier=SPECIALISED)
    plan = planned(linear, fused, layouts=[TILED])
    assert plan.layouts["layers.0.mlp.gate_up.weight"] == "tiled"
    assert set(chosen(plan, "gate_up_act")) == {"acme.fused"}


# ---- composites -----------------------------------------------------------------------------------------------------


def test_a_composite_stands_for_its_run_of_calls() -> None:
    plan = planned(stub("add_rms_norm@1", "acme.fused"), stub("gate_up_act@1", "acme.mlp"))
    pieces = plan.at(BOUNDS)
    assert [piece.start for piece in pieces] == [0, *[piece.stop for piece in pieces][:-1]], "every call once, in order"
    assert pieces[-1].stop == len(plan.program.calls)
    assert {p.stop - p.start for p in pieces if p.kernel.provider in ("acme.fused", "acme.mlp")} == {2}
    assert len(pieces) == len(plan.program.calls) - 4 - 2


def test_a_composite_whose_constraint_fails_at_a_bucket_falls_apart_there() -> None:
    plan = planned(stub("add_rms_norm@1", "acme.fused", where=C(T=between(1, 4), R=between(1, 4))))
    assert chosen(plan, "add_rms_norm") == []
    plan = planned(stub("add_rms_norm@1", "acme.fused", where=C(T=between(1, 4))))
    assert len(chosen(plan, "add_rms_norm", at(T=4, R=4))) == 4 and chosen(plan, "add", at(T=4, R=4)) == []
    assert len(chosen(plan, "add_rms_norm", at(T=5, R=4))) == 1, "the last norm has R rows"
    assert len(chosen(plan, "add", at(T=5, R=5))) == 4 and chosen(plan, "add_rms_norm", at(T=5, R=5)) == []


def test_the_torch_form_of_a_composite_is_its_run() -> None:
    assert chosen(planned(), "add_rms_norm") == []
    assert chosen(planned(stub("add_rms_norm@1", "acme.fused"), rules={"add_rms_norm": ["acme.*"]}), "add_rms_norm")


# ---- fallback -------------------------------------------------------------------------------------------------------


def test_fallback_error_names_the_first_site_and_counts() -> None:
    with pytest.raises(KernelError, match=r"only a torch form \(layers\.0\.attention_norm first\)") as caught:
        planned(*complete(leave_out=["rms_norm"], attn_paged={"plan": "acme.attn_plan"}), fallback="error")
    assert "5 of " in str(caught.value) and caught.value.subject == "layers.0.attention_norm"
    assert planned(*complete(leave_out=["rms_norm"]), fallback="warn")


def test_fallback_error_sees_the_sizes_at_which_a_kernel_gives_up() -> None:
    few = {"where": C(T=between(1, 8))}
    with pytest.raises(KernelError, match="torch form"):
        planned(*complete(rms_norm=few, attn_paged={"plan": "acme.attn_plan"}), fallback="error")


def test_fallback_error_is_satisfied_by_a_complete_set_of_kernels() -> None:
    plan = planned(*complete(attn_paged={"plan": "acme.attn_plan", "where": C()}), fallback="error")
    assert all(bound.kernel.provider.startswith("acme.") for bound in plan.at(BOUNDS))


def test_attention_without_a_plan_kernel_is_no_fallback() -> None:
    """A kernel that needs no plan leaves attn_plan with nothing to do, which no device need implement."""
    assert planned(*complete(leave_out=["attn_plan"]), fallback="error")


# ---- attention plans ------------------------------------------------------------------------------------------------


def test_the_plan_kernel_is_the_one_that_the_attention_kernel_names() -> None:
    kernels = [
        stub("attn_plan@1", "acme.a"),
        stub("attn_plan@1", "acme.b", tier=PORTABLE),
        stub("attn_paged@1", "acme.decode", where=C(max_q=1), plan="acme.a", tier=SPECIALISED),
        stub("attn_paged@1", "acme.mixed", plan="acme.b"),
    ]
    plan = planned(*kernels)
    assert chosen(plan, "attn_plan", at(max_q=1)) == ["acme.a"] and chosen(plan, "attn_plan") == ["acme.b"]
    assert set(chosen(planned(*kernels[:2]), "attn_plan")) == {"reference"}, "torch attention reads no plan"


def test_attention_kernels_of_one_group_that_want_different_plans_conflict() -> None:
    kernels = [
        stub("attn_plan@1", "acme.a"),
        stub("attn_plan@1", "acme.b"),
        stub("attn_paged@1", "acme.first", where=C(D={4}), plan="acme.a"),
        stub("attn_paged@1", "acme.other", where=C(D={8}), plan="acme.b"),
    ]
    from tests.unit.program.parts import BLOCK, MAX_LEN, Decoder, spec

    small, large = spec(layers=1, head_dim=4), spec(layers=1, head_dim=8)
    mixed = Decoder(type(small)(**{**vars(small), "layers": (*small.layers, *large.layers)}), "f32", MAX_LEN)
    program = mixed.record(block_size=BLOCK, table_width=MAX_LEN // BLOCK, meta_words=4)
    with pytest.raises(KernelError, match=r"want different plans: acme\.a, acme\.b") as caught:
        planned(*kernels, program=program)
    assert caught.value.subject == "step.plan0"


def test_a_plan_kernel_that_does_not_exist_is_named() -> None:
    with pytest.raises(KernelError, match=r"no attn_plan.* 'acme\.gone'"):
        planned(stub("attn_paged@1", "acme.attn", plan="acme.gone"))


def test_planning_the_same_program_twice_gives_the_same_plan() -> None:
    program = forward()[1]

    def providers(p: Planner) -> list[tuple[int, int, str]]:
        return [(b.start, b.stop, b.kernel.provider) for b in p.plan(program).at(BOUNDS)]

    kernels = [*complete(), stub("add_rms_norm@1", "acme.fused"), stub("rms_norm@1", "acme.a")]
    assert providers(planner(kernels)) == providers(planner(reversed(kernels)))


# ---- cost -----------------------------------------------------------------------------------------------------------


def test_alike_layers_are_decided_once_and_a_predicate_that_reads_everything_is_bearable() -> None:
    """32 layers, one attention kernel with a predicate: the buckets of every size multiply, the layers must not."""
    asked = []

    def unless(facts: Any) -> str | None:
        asked.append(facts["max_k"])
        return "odd" if facts["max_k"] % 2 else None

    large = at(T=256, S=8, R=8, max_q=256, max_k=8192)
    kernel = stub("attn_paged@1", "acme.flash", where=C(unless=unless))
    plan = planned(kernel, program=forward(layers=32)[1], bounds=large)
    list(plan.choices())
    combinations = 9 * 4 * 9 * 14
    assert len(asked) <= combinations, "each combination of sizes is asked for once, not once a layer"
    asked.clear()
    narrow = stub("attn_paged@1", "acme.flash", where=C(unless=unless, unless_reads={"max_k"}))
    list(planned(narrow, program=forward(layers=32)[1], bounds=large).choices())
    assert len(asked) == 14, "a predicate that names what it reads is asked for those sizes alone"


def test_a_predicate_that_raises_is_an_error_with_kernel_and_site() -> None:
    kernel = stub("rope@1", "acme.rope", where=C(unless=lambda facts: 1 / 0))
    with pytest.raises(KernelError, match=r"acme\.rope at layers\.0\.\S+: its constraints raised ZeroDivisionError"):
        planned(kernel)
