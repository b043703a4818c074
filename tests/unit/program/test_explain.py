"""Reports: one entry a distinct site, ranges of sizes, the losers' first failing clause, what a composite takes."""

from __future__ import annotations

from typing import Any

from aphrodite.ops.constraints import C, between
from aphrodite.ops.kernel import SPECIALISED
from aphrodite.program.explain import SiteReport, count_torch_forms, explain
from tests.unit.program.parts import BOUNDS, at, forward, planner, stub


def reports(*kernels: Any, bounds: Any = BOUNDS, layers: int = 3, **settings: Any) -> dict[str, list[SiteReport]]:
    plan = planner(kernels, bounds=bounds, **settings).plan(forward(layers=layers)[1])
    found: dict[str, list[SiteReport]] = {}
    for report in explain(plan):
        found.setdefault(report.op.partition("@")[0], []).append(report)
    return found


def test_places_alike_are_one_site_in_order_of_appearance() -> None:
    found = reports()
    assert [report.sites for report in found["rope"]] == [tuple(f"layers.{i}.attention.rope" for i in range(3))]
    assert {len(report.sites) for report in found["attn_paged"]} == {3}
    assert [len(report.sites) for report in found["rms_norm"]] == [6, 1], "the last norm works on R rows"
    assert sorted(len(report.sites) for report in found["linear"]) == [1, 3, 3, 3, 3], "by shape and bias, and the head"
    assert sum(len(r.sites) for rs in found.values() for r in rs) == len(forward(layers=3)[1].calls)
    (attention,) = found["attn_paged"]
    assert attention.program == "forward" and attention.within == "" and attention.weights == "plain"
    for part in ("Hq=4", "Hk=2", "D=4", "dtype=f32", "scale=0.5"):
        assert part in attention.what.split(), attention.what
    (biased,) = [report for report in found["linear"] if "features" in report.what]
    assert biased.what.endswith("features=bias") and biased.sites[0] == "layers.0.attention.qkv"


def test_a_choice_that_depends_on_no_size_is_one_range_with_every_loser() -> None:
    found = reports(
        stub("attn_paged@1", "acme.flash", where=C(D={64, 128}), tier=SPECIALISED), stub("attn_paged@1", "acme.any")
    )
    (site,) = found["attn_paged"]
    (only,) = site.choices
    assert only.sizes == "" and only.winner == "acme.any"
    assert [(v.provider, v.chosen, v.reason) for v in only.verdicts] == [
        ("acme.flash", False, "D=4 not in {128, 64}"),
        ("acme.any", True, "native 200, first that can"),
        ("portable", False, "torch form 0 below native 200"),
        ("reference", False, "torch form 0 below native 200"),
    ]


def test_neighbouring_sizes_with_one_winner_are_one_range() -> None:
    found = reports(stub("rms_norm@1", "acme.few", where=C(T=between(1, 8))), bounds=at(T=100))
    (site, last) = found["rms_norm"]
    assert [(choice.sizes, choice.winner) for choice in site.choices] == [
        ("T <= 8", "acme.few"), ("8 < T <= 100", "reference"),
    ]  # fmt: skip
    assert site.choices[1].verdicts[0].reason == "T=100 not in 1..8"
    assert [(choice.sizes, choice.winner) for choice in last.choices] == [("R <= 8", "acme.few")]


def test_a_choice_that_depends_on_two_sizes_lists_their_combinations() -> None:
    (site,) = reports(stub("attn_paged@1", "acme.one", where=C(max_q=1, S=between(1, 2))))["attn_paged"]
    winners = {choice.sizes: choice.winner for choice in site.choices}
    assert winners == {"S <= 2, max_q <= 1": "acme.one", "at 13 of 15 combinations": "portable"}


def test_calls_that_a_composite_takes_say_so() -> None:
    found = reports(stub("add_rms_norm@1", "acme.fused"))
    fused = found["add_rms_norm"]
    assert sorted(len(report.sites) for report in fused) == [1, 5]
    assert {choice.winner for report in fused for choice in report.choices} == {"acme.fused"}
    assert {report.within for report in found["add"]} == {"add_rms_norm@1 (acme.fused)"}
    assert [report.within for report in found["rms_norm"]] == ["", "add_rms_norm@1 (acme.fused)"], (
        "the first norm stands alone, so its kind of site is not within the composite at every place"
    )


def test_a_composite_that_gives_up_at_some_size_takes_nothing_whole() -> None:
    found = reports(stub("add_rms_norm@1", "acme.fused", where=C(T=between(1, 8))), layers=1)
    assert {report.within for report in found["add"]} == {"", "add_rms_norm@1 (acme.fused)"}
    refused = [choice for report in found["add_rms_norm"] for choice in report.choices if not choice.winner]
    assert [choice.verdicts[0].reason for choice in refused] == ["T=16 not in 1..8"]


def test_the_count_of_torch_forms_is_of_pieces_that_run() -> None:
    program = forward(layers=2)[1]
    # an attention plan that nobody reads is no fallback
    assert count_torch_forms(planner().plan(program)) == (len(program.calls) - 1, len(program.calls))
    plan = planner([stub("add_rms_norm@1", "acme.fused"), stub("rope@1", "acme.rope")]).plan(program)
    pieces = len(program.calls) - 4
    assert count_torch_forms(plan) == (pieces - 4 - 2 - 1, pieces)
