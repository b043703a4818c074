"""Lists that are given a page at a time, as OpenAI's clients ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aphrodite.server.dialect import Call
from aphrodite.server.errors import invalid
from aphrodite.server.idle import others
from aphrodite.types.shown import shown

_MOST, _DEFAULT = 100, 20
_ORDERS = ("asc", "desc")


def page(items: Sequence[Mapping[str, Any]], call: Call) -> dict[str, Any]:
    """A page of items, each with an id: `limit` of them, the newest first unless `order` is asc, behind the item
    `after` or before the item `before`. ApiError names the part of the query that is wrong."""
    query = call.query
    order = query.get("order", "desc")
    if order not in _ORDERS:
        raise invalid("order", f"order must be asc or desc, got {shown(order)}")
    limit = _limit(query.get("limit", str(_DEFAULT)))
    call.ignore(others(query, ("order", "limit", "after", "before")))
    found = list(items) if order == "asc" else list(reversed(items))
    ids = [item["id"] for item in found]
    first, last = 0, len(found)
    if "after" in query:
        first = _place(ids, query["after"], "after") + 1
    if "before" in query:
        last = _place(ids, query["before"], "before")
        if "after" not in query:
            first = max(0, last - limit)
    data = found[first:last][:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": first > 0 if "before" in query and "after" not in query else first + len(data) < last,
    }


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 4 and 1 <= int(text) <= _MOST):
        raise invalid("limit", f"limit must be an integer in 1..{_MOST}, got {shown(text)}")
    return int(text)


def _place(ids: Sequence[str], name: str, where: str) -> int:
    if name not in ids:
        raise invalid(where, f"{where} must be the id of an item of the list, got {shown(name)}")
    return ids.index(name)
