"""Messages of a chat as callers pass them, checked and copied to plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aphrodite.errors import UsageError

_MAX_DEPTH = 64
_REASONING = ("reasoning_content", "thinking", "reasoning")  # names of the same thing; templates read the first two


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """Messages as templates read them: absent values left out, reasoning under the names that templates know.

    A message is a mapping with `role`, a text, and `content`: a text, a list of {"type": "text", "text": ...}, or None.
    What else it has (tool_calls, name ...) is passed on. UsageError names what is wrong as messages[i].
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise UsageError(
            f"messages must be a list of mappings with role and content, got {messages!r}", subject="messages"
        )
    if not messages:
        raise UsageError("messages must have at least one message, got none", subject="messages")
    return [_message(message, f"messages[{place}]") for place, message in enumerate(messages)]


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy in JSON's types. UsageError names the place of what JSON has no type for."""
    if depth > _MAX_DEPTH:
        raise UsageError(f"{where} is nested more than {_MAX_DEPTH} deep", subject=where)
    if isinstance(value, str):
        text = str.__str__(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{where} holds a lone surrogate, which is no text", subject=where) from None
        return text
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise UsageError(f"{where} must have texts as keys, got {list(value)!r}", subject=where)
        return {plain(key, where): plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{place}]", depth + 1) for place, item in enumerate(value)]
    raise UsageError(f"{where} must be text, a number, a list or a mapping, got {value!r}", subject=where)


def joined(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with the parts of its content as one text, a line each, for templates that read no parts."""
    content = message.get("content")
    text = "\n".join(part["text"] for part in content) if isinstance(content, list) else content
    return {**message, "content": text} if isinstance(content, list) else dict(message)


def with_arguments_as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with the arguments of its calls as JSON, for templates that add them to their text as they are."""
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_as_text(call) for call in calls]} if isinstance(calls, list) else dict(message)


def _as_text(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), (dict, list)):
        return call
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UsageError(f"{where} must be a mapping with role and content, got {message!r}", subject=where)
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise UsageError(f"{where}.role must be a text such as user, got {role!r}", subject=f"{where}.role")
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        for place, part in enumerate(content):
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind != "text" or not isinstance(part.get("text"), str):
                what = f'must be {{"type": "text", "text": ...}}, got {part!r}'
                if isinstance(kind, str) and kind != "text":
                    what = f"is of type {kind[:40]!r}, and only text can be read here: leave it out"
                raise UsageError(f"{where}.content[{place}] {what}", subject=f"{where}.content")
    elif content is not None and not isinstance(content, str):
        raise UsageError(
            f"{where}.content must be a text, a list of text parts or None, got {content!r}", subject=f"{where}.content"
        )
    copy: dict[str, Any] = plain({key: value for key, value in message.items() if value is not None}, where)
    reasoning = next((copy[name] for name in _REASONING if name in copy), None)
    return copy if reasoning is None else {"thinking": reasoning, **copy, "reasoning_content": reasoning}
