"""JSON schemas of Anthropic's requests and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aphrodite.server.openai.schemas import object_of, parameter_schemas

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_BLOCK: Schema = object_of(
    {"type": {"enum": ["text", "thinking", "redacted_thinking", "tool_use", "tool_result"]}}, "type"
)
_CONTENT: Schema = {"anyOf": [_TEXT, {"type": "array", "items": _BLOCK}]}
_TURN: Schema = object_of({"role": {"enum": ["user", "assistant"]}, "content": _CONTENT}, "role", "content")
_TOOL: Schema = object_of(
    {"name": _TEXT, "description": _TEXT, "input_schema": {"type": "object", "additionalProperties": True}},
    "name",
    "input_schema",
)
_CONVERSATION: Mapping[str, Schema] = {
    "model": {"type": ["string", "null"]},
    "system": {"anyOf": [_TEXT, {"type": "array", "items": object_of({"type": {"const": "text"}, "text": _TEXT})}]},
    "messages": {"type": "array", "minItems": 1, "items": _TURN},
    "tools": {"type": "array", "items": _TOOL},
    "tool_choice": object_of({"type": {"enum": ["auto", "none"]}}, "type"),
    "thinking": object_of({"type": {"enum": ["enabled", "disabled", "adaptive"]}, "budget_tokens": _WHOLE}, "type"),
}
_PARAMETERS = ("temperature", "top_p", "top_k")
_REASONS = ("end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded")
COUNT: Schema = object_of({"input_tokens": _WHOLE}, "input_tokens")
MESSAGE: Schema = object_of(
    {
        "id": _TEXT,
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "model": _TEXT,
        "content": {"type": "array", "items": _BLOCK},
        "stop_reason": {"enum": [*_REASONS, None]},
        "stop_sequence": {"type": ["string", "null"]},
        "usage": object_of({"input_tokens": _WHOLE, "output_tokens": _WHOLE}, "input_tokens", "output_tokens"),
    },
    "id",
    "type",
    "role",
    "model",
    "content",
    "stop_reason",
    "usage",
)


def request() -> Schema:
    """The body of /v1/messages."""
    parameters = parameter_schemas()
    return object_of(
        {
            **_CONVERSATION,
            **{name: parameters[name] for name in _PARAMETERS},
            "max_tokens": {"type": "integer", "minimum": 1},
            "stop_sequences": {"type": "array", "items": _TEXT},
            "stream": {"type": ["boolean", "null"]},
            "metadata": {"type": ["object", "null"]},
        },
        "messages",
        "max_tokens",
    )


def count_request() -> Schema:
    """The body of /v1/messages/count_tokens."""
    return object_of(_CONVERSATION, "messages")
