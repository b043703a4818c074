"""JSON schemas of Kobold's requests and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aphrodite.server.openai.schemas import object_of, parameter_schemas

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_SWITCH: Schema = {"type": ["boolean", "null"]}
_PARAMETERS = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty", "logit_bias", "n")
RESULT: Schema = object_of({"result": _TEXT}, "result")
VALUE: Schema = object_of({"value": {"type": ["integer", "string"]}}, "value")
VALUES: Schema = object_of({"values": {"type": "array", "items": _TEXT}}, "values")
RESULTS: Schema = object_of(
    {
        "results": {
            "type": "array",
            "items": object_of(
                {"text": _TEXT, "finish_reason": {"enum": ["stop", "length", "abort"]}, "completion_tokens": _WHOLE},
                "text",
            ),
        }
    },
    "results",
)
TOKEN: Schema = object_of({"token": _TEXT, "finish_reason": {"type": ["string", "null"]}})
KEY: Schema = object_of({"genkey": {"type": ["string", "null"], "maxLength": 128}})
SUCCESS: Schema = object_of({"success": {"enum": ["true", "false"]}}, "success")
PROMPT: Schema = object_of({"prompt": _TEXT, "special": _SWITCH}, "prompt")
COUNT: Schema = object_of({"value": _WHOLE, "ids": {"type": "array", "items": _WHOLE}}, "value", "ids")
IDS: Schema = object_of({"ids": {"type": "array", "items": {"type": "integer", "minimum": 0}}}, "ids")
DETOKENIZED: Schema = object_of({"result": _TEXT, "success": {"type": "boolean"}}, "result")
VERSION: Schema = object_of({"result": _TEXT, "version": _TEXT, "protected": {"type": "boolean"}}, "result", "version")
STORY: Schema = object_of({"prompt": _TEXT})
PERF: Schema = object_of(
    {
        "last_process": _NUMBER,
        "last_eval": _NUMBER,
        "last_token_count": _WHOLE,
        "total_gens": _WHOLE,
        "stop_reason": _WHOLE,
        "queue": _WHOLE,
        "idle": _WHOLE,
        "uptime": _NUMBER,
    },
    "last_process",
    "last_eval",
    "total_gens",
    "queue",
    "idle",
)


def request() -> Schema:
    """The body of generate and generate/stream."""
    parameters = parameter_schemas()
    return object_of(
        {
            **{name: parameters[name] for name in _PARAMETERS},
            "prompt": _TEXT,
            "memory": {"type": ["string", "null"]},
            "max_length": {"anyOf": [parameters["max_tokens"], {"type": "null"}]},
            "max_context_length": {"type": ["integer", "null"], "minimum": 1},
            "rep_pen": parameters["repetition_penalty"],
            "sampler_seed": parameters["seed"],
            "stop_sequence": {"anyOf": [{"type": "array", "items": _TEXT}, {"type": "null"}]},
            "genkey": {"type": ["string", "null"], "maxLength": 128},
            "trim_stop": _SWITCH,
            "singleline": _SWITCH,
            "render_special": _SWITCH,
        },
        "prompt",
    )
