"""Constraints: which facts pass, and the sentence that a refusal is."""

from __future__ import annotations

from typing import Any

import pytest

from aphrodite.ops.constraints import C, between, ge, multiple, one_of

FACTS: dict[str, Any] = {
    "D": 96,
    "K": 100,
    "T": 17,
    "dtype": "bf16",
    "arch": "sm_89",
    "features": frozenset({"window"}),
}


@pytest.mark.parametrize(
    ("where", "refusal"),
    [
        (C(D={64, 128}, features={"window"}), "D=96 not in {128, 64}"),
        (C(K=multiple(16), features={"window"}), "K=100 not a multiple of 16"),
        (C(T=between(1, 16), features={"window"}), "T=17 not in 1..16"),
        (C(dtype="f16", features={"window"}), "dtype=bf16 not in {f16}"),
        (C(arch=ge("sm_90"), features={"window"}), "arch=sm_89 not >= sm_90"),
        (C(D=one_of([64]), features={"window"}), "D=96 not in {64}"),
        (C(H=64, features={"window"}), "H has no value here"),
        (C(), "feature window not supported"),
        (C(features={"sinks"}), "feature window not supported"),
        (C(features={"window"}, unless=lambda f: f"T {f['T']} is prime"), "T 17 is prime"),
    ],
)
def test_a_refusal_names_the_first_clause_that_fails(where: C, refusal: str) -> None:
    assert where.refusal(FACTS) == refusal


@pytest.mark.parametrize(
    "where",
    [
        C(D={64, 96}, features={"window", "sinks"}),
        C(D=96, K=multiple(10), T=between(17, 17), dtype=("bf16", "f16"), arch=ge("sm_80"), features=["window"]),
        C(features={"window"}, unless=lambda facts: None),
        C(arch=ge("sm_9"), features={"window"}),
    ],
)
def test_facts_that_hold_pass(where: C) -> None:
    assert where.refusal(FACTS) is None


def test_clauses_are_checked_in_the_order_written_then_features_then_the_predicate() -> None:
    facts = {**FACTS, "features": frozenset({"sinks"})}

    def predicate(facts: Any) -> str:
        raise AssertionError("a predicate sees only facts that all clauses accept")

    assert C(K=multiple(7), D=64, unless=predicate).refusal(facts) == "K=100 not a multiple of 7"
    assert C(D=64, K=multiple(7), unless=predicate).refusal(facts) == "D=96 not in {64}"
    assert C(D=96, unless=predicate).refusal(facts) == "feature sinks not supported"
