"""The bodies of /api/generate and /api/chat as Generations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aphrodite.server.dialect import Call
from aphrodite.server.errors import ApiError, invalid
from aphrodite.server.generation import Chat, Generation
from aphrodite.server.openai import fields
from aphrodite.server.openai.fields import shown
from aphrodite.server.openai.tools import checked_tools
from aphrodite.server.parameters import read

_ROLES = ("system", "user", "assistant", "tool")
_EFFORTS = ("low", "medium", "high")
_FIELDS = (
    "model", "name", "prompt", "suffix", "images", "system", "template", "context", "stream", "raw", "format",
    "keep_alive", "options", "think", "messages", "tools", "truncate", "shift", "logprobs", "top_logprobs",
)  # fmt: skip
_OWN_OPTIONS = ("num_ctx", "num_keep", "n")


@dataclass(frozen=True)
class Asked:
    """What the body holds. generation: None for a request that has nothing to answer, and only loads the model."""

    generation: Generation | None
    streams: bool


def chat(body: Mapping[str, Any], call: Call) -> Asked:
    """/api/chat. ApiError names what is wrong."""
    messages = body.get("messages")
    streams = fields.flag(body, "stream", True)
    if messages is None or messages == []:
        return Asked(None, streams)
    if not isinstance(messages, list):
        raise invalid("messages", f"messages must be a list, got {shown(messages)}")
    if len(messages) > call.limits.num_messages:
        most = call.limits.num_messages
        raise invalid("messages", f"messages must hold at most {most} messages, got {len(messages)}")
    found = [_message(message, f"messages[{place}]") for place, message in enumerate(messages)]
    return Asked(_generation(body, call, _chat(body, call, found)), streams)


def generate(body: Mapping[str, Any], call: Call) -> Asked:
    """/api/generate: the prompt as a user's message, or with raw as it stands."""
    prompt = fields.text(body, "prompt") or ""
    streams = fields.flag(body, "stream", True)
    if fields.text(body, "suffix"):
        raise invalid("suffix", "suffix is not supported: leave it out", "unsupported_parameter")
    _refuse_images(body, "images")
    if not prompt:
        return Asked(None, streams)
    template = call.service.model.frontend.chat_template(call.service.settings.chat_template)
    if fields.flag(body, "raw") or template is None:
        return Asked(_generation(body, call, prompt), streams)
    system = fields.text(body, "system")
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return Asked(_generation(body, call, _chat(body, call, messages)), streams)


def _generation(body: Mapping[str, Any], call: Call, what: Chat | str) -> Generation:
    form = body.get("format")
    if form not in (None, "", {}):
        raise invalid("format", f"format {shown(form)} is not supported yet: leave it out", "unsupported_parameter")
    options = fields.mapping(body, "options") or {}
    length = fields.whole(options, "num_predict", -(2**31), 2**31 - 1)
    if length is not None and length < 0:  # to the end
        length = None
    found = read({**options, "num_predict": length}, own=_OWN_OPTIONS, defaults={"max_tokens": None})
    ignored = (*found.ignored, *_without_effect(body, options, call))
    if isinstance(what, str):
        return Generation(sampling=found.sampling, prompts=(what,), ignored=ignored)
    return Generation(sampling=found.sampling, chat=what, ignored=ignored)


def _without_effect(body: Mapping[str, Any], options: Mapping[str, Any], call: Call) -> list[str]:
    """Fields that ask for something that does not happen. The model stays loaded, which most values ask for."""
    found = [name[:64] for name in body if name not in _FIELDS]
    found += [name for name in ("context", "template") if body.get(name)]
    found += [name for name in ("logprobs", "top_logprobs") if body.get(name)]
    if body.get("keep_alive") in (0, "0", "0s", "0m"):
        found.append("keep_alive")
    window = fields.whole(options, "num_ctx", 1, 2**31 - 1)
    if window is not None and window > call.service.model.frontend.card.max_model_len:
        found.append("num_ctx")
    if options.get("n") not in (None, 1):  # there is one answer here
        found.append("n")
    if options.get("num_keep") not in (None, 0, -1):
        found.append("num_keep")
    return found


def _chat(body: Mapping[str, Any], call: Call, messages: list[dict[str, Any]]) -> Chat:
    think = body.get("think")
    kwargs: dict[str, Any] = {}
    if isinstance(think, bool):
        kwargs = {"enable_thinking": think, "thinking": think}
    elif think in _EFFORTS:
        kwargs = {"enable_thinking": True, "thinking": True, "reasoning_effort": think}
    elif think is not None:
        raise invalid("think", f"think must be true, false or one of {', '.join(_EFFORTS)}, got {shown(think)}")
    last = messages[-1]
    return Chat(
        messages=messages,
        tools=checked_tools(body.get("tools"), call.limits),
        continue_final_message=last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last,
        template_kwargs=kwargs,
    )


def _message(message: Any, where: str) -> dict[str, Any]:
    """A message as the chat template reads it."""
    if not isinstance(message, dict):
        raise _wrong(where, "must be an object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise _wrong(f"{where}.role", f"must be one of {', '.join(_ROLES)}, got {shown(role)}")
    if content is not None and not isinstance(content, str):
        raise _wrong(f"{where}.content", f"must be a text, got {shown(content)}")
    _refuse_images(message, f"{where}.images")
    found: dict[str, Any] = {"role": role, "content": content or ""}
    if isinstance(message.get("thinking"), str) and message["thinking"]:
        found["reasoning_content"] = message["thinking"]
    for name in ("tool_name", "tool_call_id"):
        if isinstance(message.get(name), str):
            found["name" if name == "tool_name" else name] = message[name]
    calls = message.get("tool_calls")
    if calls:
        if not isinstance(calls, list):
            raise _wrong(f"{where}.tool_calls", f"must be a list, got {shown(calls)}")
        found["tool_calls"] = [_called(one, f"{where}.tool_calls[{at}]") for at, one in enumerate(calls)]
    return found


def _called(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments", {}) if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not isinstance(arguments, dict):
        raise _wrong(where, 'must be {"function": {"name": ..., "arguments": {...}}}')
    found: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if isinstance(call.get("id"), str):
        found["id"] = call["id"]
    return found


def _refuse_images(body: Mapping[str, Any], where: str) -> None:
    if body.get("images"):
        raise invalid(where, f"{where} cannot be read here: leave them out", "unsupported_parameter")


def _wrong(where: str, what: str) -> ApiError:
    return invalid(where, f"{where} {what}")
