"""The body of /v1/messages as a Generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aphrodite.server.anthropic.messages import conversation, ends_with_assistant
from aphrodite.server.dialect import Call
from aphrodite.server.errors import invalid
from aphrodite.server.generation import Chat, Generation
from aphrodite.server.idle import Idle, Kind, idle, others
from aphrodite.server.openai import fields
from aphrodite.server.openai.tools import checked_tools
from aphrodite.server.parameters import read
from aphrodite.types.shown import shown

_MAX_TOKENS = 2**31 - 1
_IDLE: Mapping[str, Idle] = {
    "metadata": Idle(Kind.OBJECT, ({},)),
    "service_tier": Idle(Kind.TEXT, ("auto", "standard_only")),
    "mcp_servers": Idle(Kind.LIST, ([],)),
}
_OF_CHAT = ("messages", "system", "tools", "tool_choice", "thinking", "output_config", "output_format")
_OWN = ("model", "stream", *_OF_CHAT, *_IDLE)
_ALIASES: Mapping[str, str] = {"stop_sequences": "stop"}  # nothing of other servers is meant here
_CHAT_KWARGS = ("enable_thinking", "thinking")  # how chat templates call the switch


@dataclass(frozen=True)
class Asked:
    """What the body holds. thinks: whether the caller wants to see what the model thinks."""

    generation: Generation
    streams: bool
    thinks: bool


def asked(body: Mapping[str, Any], call: Call) -> Asked:
    """A request for an answer. ApiError names what is wrong."""
    max_tokens = fields.whole(body, "max_tokens", 1, _MAX_TOKENS)
    if max_tokens is None:
        raise invalid("max_tokens", "max_tokens must be there: the most tokens to generate")
    stop = body.get("stop_sequences")
    if stop is not None and not isinstance(stop, list):
        raise invalid("stop_sequences", f"stop_sequences must be a list of texts, got {shown(stop)}")
    chat, thinks, ignored = _chat(body, call)
    found = read(body, own=_OWN, aliases=_ALIASES, unplaced=("n", "logprobs"))
    ignored = (*found.ignored, *ignored, *idle(body, _IDLE))
    return Asked(
        Generation(sampling=found.sampling, chat=chat, ignored=ignored),
        fields.flag(body, "stream"),
        thinks,
    )


def counted(body: Mapping[str, Any], call: Call) -> tuple[Chat, tuple[str, ...]]:
    """The part that is written by the chat template, and fields that have no effect on the count of its tokens."""
    chat, _, ignored = _chat(body, call)
    return chat, (*ignored, *others(body, ("model", *_OF_CHAT)))


def _chat(body: Mapping[str, Any], call: Call) -> tuple[Chat, bool, tuple[str, ...]]:
    """The chat, whether thoughts are wanted, and what has no effect."""
    messages = conversation(body, call.limits.num_messages)
    tools = _tools(body.get("tools"), call)
    may_call, ignored = _choice(body.get("tool_choice"), tools)
    thinks, lost = _thinking(body)
    effort, unknown = _output(body)
    chat = Chat(
        messages=messages,
        tools=tools if may_call else None,
        continue_final_message=ends_with_assistant(messages),
        template_kwargs=dict.fromkeys(_CHAT_KWARGS, thinks) | effort,
    )
    return chat, thinks, (*ignored, *lost, *unknown)


def _tools(value: Any, call: Call) -> list[Mapping[str, Any]] | None:
    """Tools as the chat template reads them."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise invalid("tools", f"tools must be a list, got {shown(value)}")
    if len(value) > call.limits.num_tools:
        return checked_tools(value, call.limits)  # which says so
    found = []
    for place, tool in enumerate(value):
        where = f"tools[{place}]"
        if not isinstance(tool, dict):
            raise invalid(where, f"{where} must be an object with name and input_schema")
        if tool.get("type", "custom") not in ("custom", None):
            raise invalid(
                f"{where}.type", f"{where}.type is {shown(tool['type'])}: only tools of the caller's own are there"
            )
        # In the order in which models have seen it: most templates write a tool down as it stands here.
        about = {} if tool.get("description") is None else {"description": tool["description"]}
        function = {"name": tool.get("name"), **about, "parameters": tool.get("input_schema")}
        found.append({"type": "function", "function": function})
    return checked_tools(found, call.limits, at="", schema="input_schema")


def _choice(value: Any, tools: list[Mapping[str, Any]] | None) -> tuple[bool, list[str]]:
    """Whether the model may call tools, and what of the choice has no effect. ApiError for what would be enforced."""
    if value is None:
        return True, []
    if not isinstance(value, dict):
        raise invalid("tool_choice", f"tool_choice must be an object with type, got {shown(value)}")
    kind = value.get("type")
    if kind == "tool" and not any(tool["function"]["name"] == value.get("name") for tool in tools or ()):
        raise invalid("tool_choice", f"tool_choice names {shown(value.get('name'))}, which is none of the tools")
    if kind in ("any", "tool"):
        raise invalid(
            "tool_choice", f"tool_choice {kind} is not supported yet: use auto or none", "unsupported_parameter"
        )
    if kind not in ("auto", "none"):
        raise invalid("tool_choice", f"tool_choice.type must be auto, any, tool or none, got {shown(kind)}")
    single = fields.flag(value, "disable_parallel_tool_use")
    return kind == "auto", ["tool_choice.disable_parallel_tool_use"] if single else []


def _thinking(body: Mapping[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Whether the model is to think, and what of it has no effect: a budget, for one."""
    value = fields.mapping(body, "thinking")
    if value is None:
        return False, ()
    kind = value.get("type")
    if kind not in ("enabled", "disabled", "adaptive"):
        raise invalid("thinking", f"thinking.type must be enabled, disabled or adaptive, got {shown(kind)}")
    fields.whole(value, "budget_tokens", 0, _MAX_TOKENS)
    return kind != "disabled", others(value, ("type",), "thinking.")


def _output(body: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """How hard the model is to try, for its template, and what of it has no effect. ApiError for a form, which would
    have to be kept to."""
    form = body.get("output_format")
    config = fields.mapping(body, "output_config") or {}
    for name, value in (("output_format", form), ("output_config.format", config.get("format"))):
        if value is not None:
            raise invalid(name, f"{name} {shown(value)} is not supported yet: leave it out", "unsupported_parameter")
    effort = fields.text(config, "effort")
    return {} if effort is None else {"reasoning_effort": effort}, others(config, ("effort",), "output_config.")
