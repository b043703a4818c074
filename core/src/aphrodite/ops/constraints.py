"""Where a kernel can work, as data, so that a refusal is a sentence.

    C(dtype={"f16", "bf16"}, D={64, 128}, K=multiple(16), T=between(1, 64), layout={"nhd"}, features={"window"})

Keys are the operation's own sizes and attributes, the dynamic sizes max_q and max_k, and
    dtype     the type bound to A         layout    the KV layout's name
    weights   the weight layout's name    arch      DeviceInfo.arch
    features  optional arguments served (a site may use fewer)
A set holds the legal values; a plain value is a set of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Facts = Mapping[str, Any]
Reason = str
GLOBAL_KEYS = frozenset({"dtype", "layout", "weights", "arch", "features", "max_q", "max_k"})


@dataclass(frozen=True)
class Clause:
    """One condition on one value: `text` reads after "not", as in "K=100 not a multiple of 16"."""

    holds: Callable[[Any], bool]
    text: str


def multiple(n: int) -> Clause:
    """The value is a multiple of n."""
    return Clause(lambda value: value % n == 0, f"a multiple of {n}")


def between(low: int, high: int) -> Clause:
    """low <= value <= high."""
    return Clause(lambda value: low <= value <= high, f"in {low}..{high}")


def ge(low: Any) -> Clause:
    """value >= low; of strings such as "sm_80" the numbers in them are compared."""
    return Clause(lambda value: _order(value) >= _order(low), f">= {low}")


def _order(value: Any) -> Any:
    if isinstance(value, str):
        digits = "".join(ch for ch in value if ch.isdigit())
        return int(digits) if digits else -1
    return value


def one_of(values: Iterable[Any]) -> Clause:
    """The value is one of these."""
    legal = frozenset(values)
    return Clause(lambda value: value in legal, "in {" + ", ".join(str(v) for v in sorted(legal, key=str)) + "}")


class C:
    """A conjunction of clauses, checked in the order written; `unless` is an optional predicate tried last.

    unless        facts -> a reason to refuse, or None
    unless_reads  the facts that it reads. Left out, it may read every size that varies, and is asked for each
                  combination of them, thousands on a device with many buckets: name them
    """

    def __init__(
        self,
        *,
        unless: Callable[[Facts], Reason | None] | None = None,
        unless_reads: Iterable[str] | None = None,
        **clauses: Any,
    ) -> None:
        features = clauses.pop("features", None)
        self.features: frozenset[str] | None = None if features is None else frozenset(features)
        self.clauses = {key: _clause(value) for key, value in clauses.items()}
        self.unless = unless
        self._unless_reads = None if unless_reads is None else frozenset(unless_reads)

    def refusal(self, facts: Facts) -> Reason | None:
        """The first clause that fails on these facts, as a sentence; None when all hold."""
        for key, clause in self.clauses.items():
            if key not in facts:
                return f"{key} has no value here"
            if not clause.holds(facts[key]):
                return f"{key}={facts[key]} not {clause.text}"
        missing = sorted(facts["features"] - (self.features or frozenset()))
        if missing:
            return f"feature {', '.join(missing)} not supported"
        return self.unless(facts) if self.unless else None

    def keys(self) -> frozenset[str]:
        """Names that clauses test, and those the predicate says it reads."""
        return frozenset(self.clauses) | (self._unless_reads or frozenset())

    def reads(self, facts: Iterable[str]) -> frozenset[str]:
        """Names, of these facts and the dynamic sizes, on which the outcome may depend."""
        if self.unless is None or self._unless_reads is not None:
            return self.keys()
        return frozenset(facts) | {"max_q", "max_k"}


def _clause(value: Any) -> Clause:
    if isinstance(value, Clause):
        return value
    if isinstance(value, (set, frozenset, list, tuple)):
        return one_of(value)
    return one_of([value])
