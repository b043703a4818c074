"""JSON schemas of OpenAI's requests and answers; those of sampling parameters come from their table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aphrodite.types.sampling_params import MAX_N, Items, Rule, parameters

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_SWITCH: Schema = {"type": ["boolean", "null"]}
_OBJECT: Schema = {"type": "object", "additionalProperties": True}


def parameter_schemas() -> dict[str, Schema]:
    """A schema for each sampling parameter, as the table has it; what it says in words is checked, and not in it."""
    return {item.name: _of(item.metadata["rule"], item.metadata["doc"]) for item in parameters()}


def _of(rule: Rule, doc: str) -> Schema:
    kinds: dict[type, Schema] = {int: _WHOLE, float: {"type": "number"}, bool: {"type": "boolean"}}
    if rule.items is Items.BIASES:
        found: Schema = {"type": "object", "additionalProperties": {"type": "number"}}
    elif rule.items is Items.TEXTS:
        found = {"type": "array", "items": _TEXT}
        if rule.bare:
            found = {"anyOf": [_TEXT, found]}
    elif rule.items is Items.IDS:
        found = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    else:
        found = kinds[rule.kind]
    return {"anyOf": [found, {"type": "null"}], "description": f"{doc} {rule.legal[:1].upper()}{rule.legal[1:]}."}


def object_of(properties: Mapping[str, Schema], *required: str, more: bool = True) -> dict[str, Any]:
    """An object with these properties."""
    found: dict[str, Any] = {"type": "object", "properties": dict(properties), "additionalProperties": more}
    return {**found, "required": list(required)} if required else found


def completion_request() -> Schema:
    """The body of /v1/completions."""
    ids = {"type": "array", "items": _WHOLE, "minItems": 1}
    return object_of(
        {
            **parameter_schemas(),
            "model": {"type": ["string", "null"]},
            "prompt": {
                "anyOf": [
                    _TEXT,
                    ids,
                    {"type": "array", "items": _TEXT, "minItems": 1},
                    {"type": "array", "items": ids, "minItems": 1},
                ]
            },
            "echo": _SWITCH,
            "best_of": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_N},
            **_COMMON,
        },
        "prompt",
    )


def chat_request() -> Schema:
    """The body of /v1/chat/completions."""
    return object_of(
        {
            **parameter_schemas(),
            "model": {"type": ["string", "null"]},
            "messages": {"type": "array", "minItems": 1, "items": MESSAGE},
            "logprobs": _SWITCH,
            "top_logprobs": {"type": ["integer", "null"]},
            "tools": {"anyOf": [{"type": "array", "items": TOOL}, {"type": "null"}]},
            "tool_choice": {"anyOf": [{"enum": ["auto", "none"]}, {"type": "null"}]},
            "chat_template_kwargs": {"type": ["object", "null"]},
            "add_generation_prompt": _SWITCH,
            "continue_final_message": _SWITCH,
            "reasoning_effort": {"type": ["string", "null"]},
            **_COMMON,
        },
        "messages",
    )


_COMMON: Mapping[str, Schema] = {
    "stream": _SWITCH,
    "stream_options": {
        "anyOf": [object_of({"include_usage": _SWITCH}), {"type": "null"}],
        "description": "Only where stream is true.",
    },
    "priority": {"type": ["integer", "null"]},
    "cache_salt": {"type": ["string", "null"]},
    "timeout": {"type": ["number", "null"], "description": "Seconds in which the request must be done."},
    "user": {"type": ["string", "null"]},
}
MESSAGE: Schema = object_of(
    {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
        "content": {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": object_of({"type": {"const": "text"}, "text": _TEXT}, "type", "text")},
                {"type": "null"},
            ]
        },
    },
    "role",
)
TOOL: Schema = object_of(
    {"type": {"const": "function"}, "function": object_of({"name": _TEXT, "parameters": _OBJECT}, "name")},
    "type",
    "function",
)
USAGE: Schema = object_of(
    {
        "prompt_tokens": _WHOLE,
        "completion_tokens": _WHOLE,
        "total_tokens": _WHOLE,
        "prompt_tokens_details": object_of({"cached_tokens": _WHOLE}),
    },
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
)
_HEAD: Mapping[str, Schema] = {
    "id": _TEXT,
    "object": _TEXT,
    "created": _WHOLE,
    "model": _TEXT,
    "usage": USAGE,
    "ignored_params": {"type": "array", "items": _TEXT},
}
_REASON: Schema = {"enum": ["stop", "length", "tool_calls", "abort", None]}
_STOP: Schema = {"type": ["string", "integer", "null"]}
COMPLETION: Schema = object_of(
    {
        **_HEAD,
        "choices": {
            "type": "array",
            "items": object_of(
                {
                    "index": _WHOLE,
                    "text": _TEXT,
                    "logprobs": {"type": ["object", "null"]},
                    "finish_reason": _REASON,
                    "stop_reason": _STOP,
                },
                "index",
                "text",
                "logprobs",
                "finish_reason",
            ),
        },
    },
    "id",
    "object",
    "created",
    "model",
    "choices",
)
CHAT_COMPLETION: Schema = object_of(
    {
        **_HEAD,
        "choices": {
            "type": "array",
            "items": object_of(
                {
                    "index": _WHOLE,
                    "message": object_of({"role": {"const": "assistant"}, "content": {"type": ["string", "null"]}}),
                    "logprobs": {"type": ["object", "null"]},
                    "finish_reason": _REASON,
                    "stop_reason": _STOP,
                },
                "index",
                "message",
                "finish_reason",
            ),
        },
    },
    "id",
    "object",
    "created",
    "model",
    "choices",
)
MODEL: Schema = object_of(
    {
        "id": _TEXT,
        "object": {"const": "model"},
        "created": _WHOLE,
        "owned_by": _TEXT,
        "max_model_len": {"type": ["integer", "null"]},
    },
    "id",
    "object",
    "created",
    "owned_by",
)
MODELS: Schema = object_of({"object": {"const": "list"}, "data": {"type": "array", "items": MODEL}}, "object", "data")
TOKENIZE: Schema = object_of(
    {
        "model": {"type": ["string", "null"]},
        "prompt": {"type": ["string", "null"]},
        "messages": {"type": "array", "items": MESSAGE},
        "add_special_tokens": _SWITCH,
        "return_token_strs": _SWITCH,
    }
)
TOKENS: Schema = object_of(
    {
        "count": _WHOLE,
        "max_model_len": _WHOLE,
        "tokens": {"type": "array", "items": _WHOLE},
        "token_strs": {"type": ["array", "null"]},
    },
    "count",
    "max_model_len",
    "tokens",
)
DETOKENIZE: Schema = object_of(
    {"model": {"type": ["string", "null"]}, "tokens": {"type": "array", "items": _WHOLE}}, "tokens"
)
TEXT: Schema = object_of({"prompt": _TEXT}, "prompt")
