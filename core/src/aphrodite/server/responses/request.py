"""Bodies of /v1/responses as generations."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aphrodite.server.aliases import ALIASES
from aphrodite.server.dialect import Call
from aphrodite.server.errors import ApiError, form, invalid
from aphrodite.server.generation import Chat, Generation
from aphrodite.server.idle import others
from aphrodite.server.openai import fields
from aphrodite.server.openai.chat import arguments_of, checked_chat
from aphrodite.server.openai.tools import check_choice, checked_tools
from aphrodite.server.parameters import read
from aphrodite.types.sampling_params import MAX_LOGPROBS
from aphrodite.types.shown import shown

_WITHOUT_EFFECT = ("user", "service_tier", "include", "parallel_tool_calls", "prompt_cache_key", "safety_identifier")
_MISSING: Mapping[str, str] = {  # what would make another prompt of it, and what there is in its place
    "prompt": "write it into instructions and input",
    "conversation": "use previous_response_id",
    "chat_template": "it comes from the operator (--chat-template)",
}
_OWN = (
    "model",
    "input",
    "instructions",
    "stream",
    "stream_options",
    "store",
    "previous_response_id",
    "tools",
    "tool_choice",
    "reasoning",
    "text",
    "truncation",
    "background",
    "metadata",
    "chat_template_kwargs",
    "priority",
    "cache_salt",
    "timeout",
    "top_logprobs",
    *_WITHOUT_EFFECT,
    *_MISSING,
)
_MAX_LABELS, _MAX_LABEL, _MAX_LABEL_TEXT = 16, 64, 512
_PREFIXES: Mapping[str, str] = {"message": "msg", "function_call": "fc", "reasoning": "rs"}
_TEXTS = ("input_text", "output_text", "text")


@dataclass(frozen=True)
class Asked:
    """What the body holds.

    messages  the conversation up to the answer, without instructions: those are not kept for the next
    items     what of it stands in this request, as the API lists it
    metadata  labels that are kept beside the response
    """

    generation: Generation
    messages: Sequence[Mapping[str, Any]]
    items: Sequence[Mapping[str, Any]]
    metadata: Mapping[str, str]
    stream: bool
    store: bool
    body: Mapping[str, Any]


def read_request(body: Mapping[str, Any], call: Call, before: Sequence[Mapping[str, Any]]) -> Asked:
    """A body, behind the messages of the response that it goes on from. ApiError names what is wrong."""
    _refuse(body)
    streams, ignored = _stream(body)
    instructions = fields.text(body, "instructions")
    said, places = messages_of(body.get("input"))
    messages = [*before, *said]
    system = [{"role": "system", "content": instructions}] if instructions else []
    tools = checked_tools(_nested(body.get("tools")), call.limits, at="")
    may_call = check_choice(body.get("tool_choice"), tools)
    kwargs = dict(fields.mapping(body, "chat_template_kwargs") or {})
    reasoning, text = fields.mapping(body, "reasoning") or {}, fields.mapping(body, "text") or {}
    effort = fields.text(reasoning, "effort")
    if effort is not None:
        kwargs.setdefault("reasoning_effort", effort)
    found = read(
        body,
        own=_OWN,
        aliases={**ALIASES, "max_output_tokens": "max_tokens"},
        defaults={"max_tokens": None},
        unplaced=("n", "logprobs"),
    )
    ignored += (*others(reasoning, ("effort",), "reasoning."), *others(text, ("format",), "text."))
    try:
        checked = checked_chat([*system, *messages], call.limits.num_messages)
    except ApiError as error:
        raise _of_input(error, places, len(system) + len(before)) from None
    generation = Generation(
        sampling=found.sampling,
        chat=Chat(messages=checked, tools=tools if may_call else None, template_kwargs=kwargs),
        source="input",
        ignored=found.ignored + ignored + fields.ignored_of(body, _WITHOUT_EFFECT),
        priority=fields.whole(body, "priority", -(2**31), 2**31 - 1) or 0,
        cache_salt=fields.text(body, "cache_salt"),
        timeout_s=fields.seconds(body, "timeout"),
    )
    return Asked(
        generation,
        messages,
        items_of(body["input"]),
        _labels(body),
        streams,
        fields.flag(body, "store", True),
        body,
    )


def _refuse(body: Mapping[str, Any]) -> None:
    """ApiError for what would have to be kept to, and cannot be."""
    if fields.flag(body, "background"):
        raise invalid("background", "background is not supported: use stream", "unsupported_parameter")
    truncation = body.get("truncation")
    if truncation not in (None, "disabled"):
        raise invalid(
            "truncation",
            f"truncation must be disabled: shorten the input, got {shown(truncation)}",
            "unsupported_parameter",
        )
    format = fields.mapping(fields.mapping(body, "text") or {}, "format")
    if format is not None and format.get("type", "text") != "text":
        raise invalid(
            "text.format",
            f'text.format of type {shown(format["type"])} is not supported yet: use {{"type": "text"}}',
            "unsupported_parameter",
        )
    if fields.whole(body, "top_logprobs", 0, MAX_LOGPROBS):
        raise invalid("top_logprobs", "top_logprobs is not supported here: use chat completions")
    for name, instead in _MISSING.items():
        if body.get(name) is not None:
            raise invalid(name, f"{name} is not supported: {instead}, got {form(body[name])}", "unsupported_parameter")


def _stream(body: Mapping[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Whether the answer is a stream, and what of its options has no effect: nothing is put in to hide lengths."""
    streams, options = fields.flag(body, "stream"), fields.mapping(body, "stream_options")
    if options is None:
        return streams, ()
    if not streams:
        raise invalid("stream_options", "stream_options may only be there when stream is true")
    hides = fields.flag(options, "include_obfuscation")
    lost = others(options, ("include_obfuscation",), "stream_options.")
    return streams, (*lost, *(["stream_options.include_obfuscation"] if hides else []))


def _labels(body: Mapping[str, Any]) -> Mapping[str, str]:
    """`metadata`: few texts."""
    found = fields.mapping(body, "metadata") or {}
    if len(found) > _MAX_LABELS:
        raise invalid("metadata", f"metadata must have at most {_MAX_LABELS} keys, got {len(found)}")
    for key, value in found.items():
        if len(key) > _MAX_LABEL or not isinstance(value, str) or len(value) > _MAX_LABEL_TEXT:
            raise invalid(
                "metadata",
                f"metadata must map keys of at most {_MAX_LABEL} characters to texts of at most {_MAX_LABEL_TEXT}, "
                f"got {shown(key)}: {shown(value)}",
            )
    return found


def messages_of(value: Any) -> tuple[list[dict[str, Any]], list[int]]:
    """Input as messages of a chat, and the number of the item that each comes from. ApiError names the first item that
    is none."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}], [0]
    if not isinstance(value, list) or not value:
        raise invalid("input", f"input must be a text, or a list of at least one item, got {form(value)}")
    found: list[dict[str, Any]] = []
    places: list[int] = []
    for place, item in enumerate(value):
        where = f"input[{place}]"
        if not isinstance(item, dict):
            raise invalid(where, f"{where} must be an object, got {form(item)}")
        fields.text(item, "id", f"{where}.")
        kind = "message" if item.get("type") is None else item["type"]
        if kind == "message":
            found.append({"role": item.get("role"), "content": _content(item, "content", where)})
        elif kind == "function_call":
            _add_call(found, item, where)
        elif kind == "function_call_output":
            output, call_id = _content(item, "output", where), fields.text(item, "call_id", f"{where}.")
            found.append({"role": "tool", "tool_call_id": call_id, "content": output})
        elif kind != "reasoning":  # what it thought before is none of the conversation
            raise invalid(where, f"{where}.type {shown(kind)} is not supported", "unsupported_parameter")
        places += [place] * (len(found) - len(places))
    return found, places


def items_of(value: str | list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """Input that was read, as the items that the API lists: each has an id, and a message its type."""
    if isinstance(value, str):
        value = [{"role": "user", "content": [{"type": "input_text", "text": value}]}]
    found: list[Mapping[str, Any]] = []
    for item in value:
        kind = "message" if item.get("type") is None else item["type"]
        content = item.get("content")
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        texts = {"content": [{"type": part, "text": content}]} if isinstance(content, str) else {}
        name = fields.text(item, "id") or f"{_PREFIXES.get(kind, 'item')}_{secrets.token_hex(12)}"
        found.append({**item, **texts, "id": name, "type": kind, "status": item.get("status") or "completed"})
    return found


def _add_call(found: list[dict[str, Any]], item: Mapping[str, Any], where: str) -> None:
    """A call belongs to the message of the assistant before it."""
    name, arguments = fields.text(item, "name", f"{where}."), fields.text(item, "arguments", f"{where}.")
    if name is None:
        raise invalid(f"{where}.name", f"{where}.name must be there: the function that was called")
    call_id = fields.text(item, "call_id", f"{where}.")
    data = arguments_of(arguments or "", f"{where}.arguments")
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": data}}
    if not found or found[-1]["role"] != "assistant":
        found.append({"role": "assistant", "content": None})
    found[-1].setdefault("tool_calls", []).append(call)


def _content(item: Mapping[str, Any], name: str, where: str) -> str | list[dict[str, Any]]:
    """Content with its parts as chats have them."""
    value, where = item.get(name), f"{where}.{name}"
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise invalid(where, f"{where} must be a text or a list of parts, got {form(value)}")
    parts = []
    for place, part in enumerate(value):
        here = f"{where}[{place}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind is None:
            raise invalid(here, f"{here} must be an object with type and text, got {form(part)}")
        if kind not in _TEXTS:
            raise invalid(here, f"{here} is of type {shown(kind)}, and only text can be read here")
        text = fields.text(part, "text", f"{here}.")
        if text is None:
            raise invalid(f"{here}.text", f"{here}.text must be there: a text")
        parts.append({"type": "text", "text": text})
    return parts


def _nested(tools: Any) -> Any:
    """Tools as chats have them: here their parts stand beside the type."""
    if not isinstance(tools, list):
        return tools
    return [
        {"type": tool["type"], "function": {key: value for key, value in tool.items() if key not in ("type", "strict")}}
        if isinstance(tool, dict) and tool.get("type") == "function" and "function" not in tool
        else tool
        for tool in tools
    ]


def _of_input(error: ApiError, places: Sequence[int], before: int) -> ApiError:
    """The refusal of a message, in terms of the input that it came from: there were so many messages before it."""
    name = error.param or "input"
    if name.startswith("messages["):
        number, _, rest = name.removeprefix("messages[").partition("]")
        shown_as = f"input[{places[max(0, int(number) - before)]}]"
        message = error.message.replace(f"messages[{number}]", shown_as).replace(".tool_call_id", ".call_id")
        return invalid(shown_as + rest.replace(".tool_call_id", ".call_id"), message, error.code)
    return invalid("input", error.message.replace("messages", "input"), error.code)
