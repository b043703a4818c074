"""The bodies of /api/generate and /api/chat as Generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aphrodite.server.dialect import Call
from aphrodite.server.errors import ApiError, form, invalid
from aphrodite.server.generation import Chat, Generation
from aphrodite.server.idle import Idle, Kind, idle, others
from aphrodite.server.ollama.keep import is_unload
from aphrodite.server.openai import fields
from aphrodite.server.openai.tools import checked_tools
from aphrodite.server.parameters import Read, read
from aphrodite.types.shown import shown

_ROLES = ("system", "user", "assistant", "tool")
_EFFORTS = ("low", "medium", "high")
# Which fields a route knows, and which of them change nothing at any value but these.
_IDLE: Mapping[str, Idle] = {
    "truncate": Idle(Kind.SWITCH, (False,)),  # a prompt that is too long is refused
    "shift": Idle(Kind.SWITCH, (False,)),  # an answer ends where the context does
    "logprobs": Idle(Kind.SWITCH, (False,)),
    "top_logprobs": Idle(Kind.WHOLE, (0,)),
}
_IDLE_TO_GENERATE: Mapping[str, Idle] = {
    **_IDLE,
    "context": Idle(Kind.LIST, ([],)),
    "template": Idle(Kind.TEXT, ("",)),
}
_COMMON = ("model", "stream", "format", "keep_alive", "options", "think")
_OF_CHAT = (*_COMMON, *_IDLE, "messages", "tools")
_OF_GENERATE = (*_COMMON, *_IDLE_TO_GENERATE, "prompt", "suffix", "images", "system", "raw")
_TEXTS: Mapping[str, str] = {  # of a message, beside its content: as the chat template calls them
    "thinking": "reasoning_content",
    "tool_name": "name",
    "tool_call_id": "tool_call_id",
}
_OWN_OPTIONS = ("num_ctx", "num_keep")
_MAX_INT = 2**31 - 1


@dataclass(frozen=True)
class Asked:
    """What the body holds. generation: None for a request that has nothing to answer, and only loads the model."""

    generation: Generation | None
    streams: bool
    ignored: tuple[str, ...]


def chat(body: Mapping[str, Any], call: Call) -> Asked:
    """/api/chat. ApiError names what is wrong."""
    how = _How.read(body, call, _IDLE, _OF_CHAT)
    tools = checked_tools(body.get("tools"), call.limits)
    messages = fields.array(body, "messages") or []
    if len(messages) > call.limits.num_messages:
        most = call.limits.num_messages
        raise invalid("messages", f"messages must hold at most {most} messages, got {len(messages)}")
    found = [_message(message, f"messages[{place}]") for place, message in enumerate(messages)]
    if not found:
        return Asked(None, how.streams, how.ignored)
    last = found[-1]
    asked = Chat(
        messages=found,
        tools=tools,
        continue_final_message=last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last,
        template_kwargs=how.template_kwargs,
    )
    return how.asked(Generation(sampling=how.found.sampling, chat=asked, ignored=how.ignored))


def generate(body: Mapping[str, Any], call: Call) -> Asked:
    """/api/generate: the prompt as a user's message, or with raw as it stands."""
    how = _How.read(body, call, _IDLE_TO_GENERATE, _OF_GENERATE)
    prompt, system = fields.text(body, "prompt") or "", fields.text(body, "system") or ""
    if fields.text(body, "suffix"):
        raise invalid(
            "suffix", f"suffix is not supported: leave it out, got {shown(body['suffix'])}", "unsupported_parameter"
        )
    _refuse_images(body, "images")
    is_raw = fields.flag(body, "raw")
    for name in ("system", "template", "context"):
        if is_raw and body.get(name):
            raise invalid(name, f"{name} must be left out where raw is true, got {shown(body[name])}")
    if not prompt:
        return Asked(None, how.streams, how.ignored)
    template = call.service.model.frontend.chat_template(call.service.settings.chat_template)
    if is_raw or template is None:
        lost = (*how.ignored, *(["system"] if system else []))
        return how.asked(Generation(sampling=how.found.sampling, prompts=(prompt,), source="prompt", ignored=lost))
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    asked = Chat(messages=messages, template_kwargs=how.template_kwargs)
    return how.asked(Generation(sampling=how.found.sampling, chat=asked, source="prompt", ignored=how.ignored))


@dataclass(frozen=True)
class _How:
    """What both routes have."""

    streams: bool
    found: Read
    template_kwargs: Mapping[str, Any]
    ignored: tuple[str, ...]

    @classmethod
    def read(cls, body: Mapping[str, Any], call: Call, table: Mapping[str, Idle], known: Sequence[str]) -> _How:
        """ApiError names what is wrong."""
        form = body.get("format")
        if form not in (None, "", {}):
            raise invalid("format", f"format {shown(form)} is not supported yet: leave it out", "unsupported_parameter")
        options = fields.mapping(body, "options") or {}
        found = read(
            {**options, "num_predict": _length(options)},
            own=_OWN_OPTIONS,
            defaults={"max_tokens": None},
            unplaced=("n", "logprobs"),
        )
        ignored = (*found.ignored, *others(body, known), *idle(body, table), *_unmet(options, call))
        if is_unload(body.get("keep_alive")):
            ignored += ("keep_alive",)
        return cls(fields.flag(body, "stream", True), found, _thinking(body.get("think")), ignored)

    def asked(self, generation: Generation) -> Asked:
        """A request that is answered."""
        return Asked(generation, self.streams, generation.ignored)


def _length(options: Mapping[str, Any]) -> int | None:
    """num_predict. Below 0 it means: to the end."""
    length = fields.whole(options, "num_predict", -_MAX_INT - 1, _MAX_INT)
    if length == 0:
        raise invalid("num_predict", f"num_predict must be an integer in 1..{_MAX_INT}, or -1 for no limit, got 0")
    return None if length is not None and length < 0 else length


def _unmet(options: Mapping[str, Any], call: Call) -> list[str]:
    """Options that ask for more than there is."""
    found = []
    window = fields.whole(options, "num_ctx", 1, _MAX_INT)
    if window is not None and window > call.service.model.frontend.card.max_model_len:
        found.append("num_ctx")
    if fields.whole(options, "num_keep", -1, _MAX_INT) not in (None, 0, -1):
        found.append("num_keep")
    return found


def _thinking(think: Any) -> dict[str, Any]:
    """What the chat template is told of it."""
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"enable_thinking": think, "thinking": think}
    if think in _EFFORTS:
        return {"enable_thinking": True, "thinking": True, "reasoning_effort": think}
    raise invalid("think", f"think must be true, false or one of {', '.join(_EFFORTS)}, got {shown(think)}")


def _message(message: Any, where: str) -> dict[str, Any]:
    """A message as the chat template reads it."""
    if not isinstance(message, dict):
        raise _wrong(where, f"must be an object with role and content, got {form(message)}")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise _wrong(f"{where}.role", f"must be one of {', '.join(_ROLES)}, got {shown(role)}")
    if content is not None and not isinstance(content, str):
        raise _wrong(f"{where}.content", f"must be a text, got {shown(content)}")
    _refuse_images(message, f"{where}.images")
    found: dict[str, Any] = {"role": role, "content": content or ""}
    for name, ours in _TEXTS.items():
        if text := fields.text(message, name, f"{where}."):
            found[ours] = text
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise _wrong(f"{where}.tool_calls", f"must be a list, got {shown(calls)}")
    if calls:
        found["tool_calls"] = [_called(one, f"{where}.tool_calls[{at}]") for at, one in enumerate(calls)]
    return found


def _called(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments", {}) if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not isinstance(arguments, dict):
        raise _wrong(where, 'must be {"function": {"name": ..., "arguments": {...}}}')
    found: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if call_id := fields.text(call, "id", f"{where}."):
        found["id"] = call_id
    return found


def _refuse_images(body: Mapping[str, Any], where: str) -> None:
    images = body.get("images")
    if images is not None and not isinstance(images, list):
        raise invalid(where, f"{where} must be a list, got {shown(images)}")
    if images:
        raise invalid(where, f"{where} cannot be read here: leave them out", "unsupported_parameter")


def _wrong(where: str, what: str) -> ApiError:
    return invalid(where, f"{where} {what}")
