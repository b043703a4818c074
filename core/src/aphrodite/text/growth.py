"""How much longer a tokenizer's own rules can make a text: a file from strangers may turn a letter into gigabytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST = 256  # times; rules of models give 4 at most
_PARTS = ("normalizers", "pretokenizers", "decoders")


def growth(rule: Mapping[str, Any] | None) -> int:
    """Characters that a normaliser, pre-tokeniser or decoder, as tokenizer.json spells it, may make of each one. What
    has a bound of its own, as Unicode's normal forms, counts as 1."""
    if rule is None:
        return 1
    kind = rule.get("type")
    if kind == "Sequence":
        product = 1
        for name in _PARTS:
            for part in rule.get(name) or ():
                product *= growth(part)
        return product
    if kind == "Replace":
        content, pattern = rule.get("content") or "", rule.get("pattern") or {}
        if "Regex" in pattern:  # which may be found where there is nothing
            return 1 + len(content)
        return max(1, -(-len(content) // max(1, len(pattern.get("String") or ""))))
    if kind == "Prepend":
        return 1 + len(rule.get("prepend") or "")
    return 1
