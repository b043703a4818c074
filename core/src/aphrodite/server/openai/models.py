"""GET /v1/models: what is served; it answers while the model loads."""

from __future__ import annotations

from typing import Any

from aphrodite.server.dialect import Call, Json, Reply
from aphrodite.server.errors import unknown_model


async def models(call: Call) -> Reply:
    """All names of the model."""
    names = call.service.settings.model_names
    return Json({"object": "list", "data": [_entry(call, name) for name in names]})


async def model(call: Call) -> Reply:
    """One of them."""
    names = call.service.settings.model_names
    name = call.path_params["name"]
    if name not in names:
        raise unknown_model(name, ", ".join(names))
    return Json(_entry(call, name))


def _entry(call: Call, name: str) -> dict[str, Any]:
    loaded = call.service.host.model
    return {
        "id": name,
        "object": "model",
        "created": call.service.started_at,
        "owned_by": "aphrodite",
        "root": call.service.settings.model_names[0],
        "parent": None,
        "max_model_len": loaded.frontend.card.max_model_len if loaded is not None else None,
        "permission": [],
    }
