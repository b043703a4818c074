"""Bodies of /v1/responses as generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aphrodite.server.aliases import ALIASES
from aphrodite.server.dialect import Call
from aphrodite.server.errors import ApiError, invalid
from aphrodite.server.generation import Chat, Generation
from aphrodite.server.openai import fields
from aphrodite.server.openai.chat import checked_chat
from aphrodite.server.openai.tools import check_choice, checked_tools
from aphrodite.server.parameters import read

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
    "parallel_tool_calls",
    "reasoning",
    "text",
    "truncation",
    "include",
    "background",
    "metadata",
    "user",
    "service_tier",
    "chat_template_kwargs",
    "priority",
    "cache_salt",
    "timeout",
    "prompt_cache_key",
    "safety_identifier",
    "top_logprobs",
)
_WITHOUT_EFFECT = ("user", "service_tier", "include", "parallel_tool_calls", "prompt_cache_key", "safety_identifier")
_HARMLESS: Mapping[str, Any] = {"include": [], "parallel_tool_calls": True}
_TEXTS = ("input_text", "output_text", "text")


@dataclass(frozen=True)
class Asked:
    """What the body holds.

    messages  the conversation up to the answer, without instructions: those are not kept for the next
    """

    generation: Generation
    messages: Sequence[Mapping[str, Any]]
    stream: bool
    store: bool
    body: Mapping[str, Any]


def read_request(body: Mapping[str, Any], call: Call, before: Sequence[Mapping[str, Any]]) -> Asked:
    """A body, behind the messages of the response that it goes on from. ApiError names what is wrong."""
    if fields.flag(body, "background"):
        raise invalid("background", "background is not supported: use stream", "unsupported_parameter")
    if body.get("truncation") not in (None, "disabled"):
        raise invalid("truncation", "truncation must be disabled: shorten the input", "unsupported_parameter")
    form = fields.mapping(fields.mapping(body, "text") or {}, "format")
    if form is not None and form.get("type", "text") != "text":
        raise invalid("text.format", "text.format must be text: others are not supported yet", "unsupported_parameter")
    if body.get("top_logprobs"):
        raise invalid("top_logprobs", "top_logprobs is not supported here: use chat completions")
    instructions = fields.text(body, "instructions")
    messages = [*before, *messages_of(body.get("input"))]
    system = [{"role": "system", "content": instructions}] if instructions else []
    tools = checked_tools(_nested(body.get("tools")), call.limits)
    may_call = check_choice(body.get("tool_choice"), tools)
    kwargs = dict(fields.mapping(body, "chat_template_kwargs") or {})
    effort = fields.text(fields.mapping(body, "reasoning") or {}, "effort")
    if effort is not None:
        kwargs.setdefault("reasoning_effort", effort)
    found = read(
        body,
        own=_OWN,
        aliases={**ALIASES, "max_output_tokens": "max_tokens"},
        defaults={"max_tokens": None},
        fixed={"n": 1},
    )
    try:
        checked = checked_chat([*system, *messages], call.limits.num_messages)
    except ApiError as error:
        raise _of_input(error, len(system) + len(before)) from None
    generation = Generation(
        sampling=found.sampling,
        chat=Chat(messages=checked, tools=tools if may_call else None, template_kwargs=kwargs),
        ignored=found.ignored + tuple(n for n in fields.ignored_of(body, _WITHOUT_EFFECT) if _counts(body, n)),
        priority=fields.whole(body, "priority", -(2**31), 2**31 - 1) or 0,
        cache_salt=fields.text(body, "cache_salt"),
        timeout_s=fields.seconds(body, "timeout"),
    )
    return Asked(generation, messages, fields.flag(body, "stream"), fields.flag(body, "store", True), body)


def messages_of(value: Any) -> list[dict[str, Any]]:
    """Input as messages of a chat. ApiError names the first item that is none."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise invalid("input", "input must be a text, or a list of at least one item")
    found: list[dict[str, Any]] = []
    for place, item in enumerate(value):
        where = f"input[{place}]"
        if not isinstance(item, dict):
            raise invalid(where, f"{where} must be an object")
        kind = item.get("type", "message")
        if kind == "message":
            found.append({"role": item.get("role"), "content": _content(item.get("content"), where)})
        elif kind == "function_call":
            _add_call(found, item)
        elif kind == "function_call_output":
            output = _content(item.get("output"), where)
            found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
        elif kind != "reasoning":  # what it thought before is none of the conversation
            raise invalid(where, f"{where}.type {fields.shown(kind)} is not supported", "unsupported_parameter")
    return found


def _add_call(found: list[dict[str, Any]], item: Mapping[str, Any]) -> None:
    """A call belongs to the message of the assistant before it."""
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    if not found or found[-1]["role"] != "assistant":
        found.append({"role": "assistant", "content": None})
    found[-1].setdefault("tool_calls", []).append(call)


def _content(value: Any, where: str) -> Any:
    """Content with its parts as chats have them."""
    if not isinstance(value, list):
        return value
    parts = []
    for place, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") not in _TEXTS:
            kind = part.get("type") if isinstance(part, dict) else None
            said = f"is of type {fields.shown(kind)}, and only text can be read here"
            what = "must be a text" if kind is None else said
            raise invalid(f"{where}.content[{place}]", f"{where}.content[{place}] {what}")
        parts.append({"type": "text", "text": part.get("text")})
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


def _counts(body: Mapping[str, Any], name: str) -> bool:
    return name not in _HARMLESS or body[name] != _HARMLESS[name]


def _of_input(error: ApiError, before: int) -> ApiError:
    """The refusal of a message, in terms of the input that it came from."""
    name = error.param or "input"
    if name.startswith("messages["):
        number, _, rest = name.removeprefix("messages[").partition("]")
        shown = f"input[{max(0, int(number) - before)}]"
        return invalid(shown + rest, error.message.replace(f"messages[{number}]", shown), error.code)
    return invalid("input", error.message.replace("messages", "input"), error.code)
