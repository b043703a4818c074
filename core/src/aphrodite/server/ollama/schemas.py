"""JSON schemas of Ollama's requests and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aphrodite.server.openai.schemas import TOOL, object_of, parameter_schemas

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_SWITCH: Schema = {"type": ["boolean", "null"]}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_PARAMETERS = ("temperature", "top_k", "top_p", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty")
_DETAILS: Schema = object_of({"format": _TEXT, "family": _TEXT, "families": _TEXTS}, "format", "family", "families")
_END: Mapping[str, Schema] = {
    "done": {"type": "boolean"},
    "done_reason": _TEXT,
    "total_duration": _WHOLE,
    "load_duration": _WHOLE,
    "prompt_eval_count": _WHOLE,
    "prompt_eval_duration": _WHOLE,
    "eval_count": _WHOLE,
    "eval_duration": _WHOLE,
}
_CALL: Schema = object_of({"function": object_of({"name": _TEXT, "arguments": {"type": "object"}}, "name")}, "function")
_MESSAGE: Schema = object_of(
    {
        "role": {"enum": ["system", "user", "assistant", "tool"]},
        "content": {"type": ["string", "null"]},
        "thinking": {"type": ["string", "null"]},
        "tool_calls": {"anyOf": [{"type": "array", "items": _CALL}, {"type": "null"}]},
    },
    "role",
)
VERSION: Schema = object_of({"version": _TEXT}, "version")
NAME: Schema = object_of({"model": _TEXT, "verbose": _SWITCH}, "model")
MODELS: Schema = object_of(
    {
        "models": {
            "type": "array",
            "items": object_of(
                {
                    "name": _TEXT,
                    "model": _TEXT,
                    "modified_at": _TEXT,
                    "size": _WHOLE,
                    "digest": _TEXT,
                    "details": _DETAILS,
                },
                "name",
                "model",
                "size",
                "digest",
                "details",
            ),
        }
    },
    "models",
)
SHOWN: Schema = object_of(
    {
        "template": _TEXT,
        "parameters": _TEXT,
        "details": _DETAILS,
        "model_info": {"type": "object", "additionalProperties": True},
        "capabilities": _TEXTS,
    },
    "details",
    "model_info",
    "capabilities",
)
GENERATED: Schema = object_of(
    {"model": _TEXT, "created_at": _TEXT, "response": _TEXT, "thinking": _TEXT, **_END},
    "model",
    "created_at",
    "response",
    "done",
)
ANSWERED: Schema = object_of(
    {"model": _TEXT, "created_at": _TEXT, "message": _MESSAGE, **_END}, "model", "created_at", "message", "done"
)


def _common() -> dict[str, Schema]:
    parameters = parameter_schemas()
    options = object_of(
        {
            **{name: parameters[name] for name in _PARAMETERS},
            "num_predict": {"type": ["integer", "null"]},
            "num_ctx": {"type": ["integer", "null"], "minimum": 1},
            "repeat_penalty": parameters["repetition_penalty"],
        }
    )
    return {
        "model": {"type": ["string", "null"]},
        "stream": _SWITCH,
        "options": {"anyOf": [options, {"type": "null"}]},
        "think": {"enum": [True, False, "low", "medium", "high", None]},
        "keep_alive": {"type": ["string", "integer", "number", "null"]},
    }


def generate_request() -> Schema:
    """The body of /api/generate."""
    return object_of(
        {**_common(), "prompt": {"type": ["string", "null"]}, "system": {"type": ["string", "null"]}, "raw": _SWITCH}
    )


def chat_request() -> Schema:
    """The body of /api/chat."""
    return object_of(
        {
            **_common(),
            "messages": {"anyOf": [{"type": "array", "items": _MESSAGE}, {"type": "null"}]},
            "tools": {"anyOf": [{"type": "array", "items": TOOL}, {"type": "null"}]},
        }
    )
