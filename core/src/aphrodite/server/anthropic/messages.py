"""Anthropic's messages, made of blocks, as the chat template reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aphrodite.server.errors import ApiError, form, invalid
from aphrodite.server.openai import fields
from aphrodite.types.shown import shown

_THOUGHTS = ("thinking", "redacted_thinking")


def conversation(body: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """`system` and `messages` as messages with a role each: results of tools stand apart from what the user says.

    most  messages that there may be
    ApiError names the first block that is wrong as messages[i].content[j].
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", f"messages must be a list of at least one message, got {form(messages)}")
    if len(messages) > most:
        raise invalid("messages", f"messages must hold at most {most} messages, got {len(messages)}")
    found: list[dict[str, Any]] = []
    system = _system(body.get("system"))
    if system is not None:
        found.append({"role": "system", "content": system})
    calls: set[str] = set()
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict):
            raise _wrong(where, f"must be an object with role and content, got {form(message)}")
        role, blocks = message.get("role"), _blocks(message.get("content"), f"{where}.content")
        if role == "user":
            found += _user(blocks, f"{where}.content", calls)
        elif role == "assistant":
            found.append(_assistant(blocks, f"{where}.content", calls))
        else:
            raise _wrong(f"{where}.role", f"must be user or assistant, got {shown(role)}")
    return found


def ends_with_assistant(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the answer has been begun by the caller, and is to go on from there."""
    last = messages[-1]
    return last["role"] == "assistant" and bool(last.get("content")) and not last.get("tool_calls")


def _system(value: Any) -> str | list[dict[str, Any]] | None:
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, str):
        return value
    blocks = _blocks(value, "system")
    return [_text(block, f"system[{at}]") for at, block in enumerate(blocks)]


def _user(blocks: list[Any], where: str, calls: set[str]) -> list[dict[str, Any]]:
    """Results first, in their order, then what is said."""
    found: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for at, block in enumerate(blocks):
        here = f"{where}[{at}]"
        if block.get("type") == "tool_result":
            found.append(_result(block, here, calls))
        else:
            said.append(_text(block, here))
    if said or not found:
        found.append({"role": "user", "content": said})
    return found


def _assistant(blocks: list[Any], where: str, calls: set[str]) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    used: list[dict[str, Any]] = []
    for at, block in enumerate(blocks):
        here = f"{where}[{at}]"
        kind = block.get("type")
        if kind in _THOUGHTS:
            thought = fields.text(block, "thinking", f"{here}.")
            thoughts += [thought] if thought else []
        elif kind == "tool_use":
            used.append(_use(block, here))
            calls.add(used[-1]["id"])
        else:
            texts.append(_text(block, here)["text"])
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if used:
        message["tool_calls"] = used
    return message


def _use(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    call_id, name, arguments = block.get("id"), block.get("name"), block.get("input", {})
    if not isinstance(call_id, str) or not isinstance(name, str) or not isinstance(arguments, dict):
        raise _wrong(where, 'must be {"type": "tool_use", "id": ..., "name": ..., "input": {...}}')
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(block: Mapping[str, Any], where: str, calls: set[str]) -> dict[str, Any]:
    call_id = fields.text(block, "tool_use_id", f"{where}.")
    if call_id not in calls:
        raise _wrong(f"{where}.tool_use_id", f"is {shown(call_id)}, which no tool_use before it has")
    content = block.get("content")
    parts = [] if content is None else _blocks(content, f"{where}.content")
    texts = [_text(part, f"{where}.content[{at}]")["text"] for at, part in enumerate(parts)]
    return {"role": "tool", "tool_call_id": call_id, "content": "\n".join(texts)}


def _blocks(content: Any, where: str) -> list[Any]:
    """Content as blocks: a text is one."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise _wrong(where, f"must be a text or a list of blocks, got {form(content)}")
    return content


def _text(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind != "text":
        raise _wrong(
            f"{where}.type", f"is {shown(kind)}, which cannot be read here: only text, tool_use and tool_result"
        )
    text = block.get("text")
    if not isinstance(text, str):
        raise _wrong(f"{where}.text", "must be a text")
    return {"type": "text", "text": text}


def _wrong(where: str, what: str) -> ApiError:
    return invalid(where, f"{where} {what}")
