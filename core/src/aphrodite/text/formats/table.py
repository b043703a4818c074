"""How families of models write reasoning and tool calls, as their published chat templates show."""

from __future__ import annotations

from collections.abc import Mapping

from aphrodite.text.formats.describe import Calls, Channels, Heads, Keys, Thoughts, ToolFormat

_OBJECT_ALONE = Calls(opens=(), between=(";",), strict=True)
_FENCED = Calls(opens=("```json", "```"), closes=("```",), strict=True)

HERMES = ToolFormat("hermes", (Calls(opens=("<tool_call>",), ends=("</tool_call>",)),))
LLAMA3 = ToolFormat("llama3", (Calls(opens=("<|python_tag|>",), between=(";",), special=True), _OBJECT_ALONE))
MISTRAL = ToolFormat(
    "mistral",
    (
        Calls(
            opens=("[TOOL_CALLS]",),
            heads=Heads({"[CALL_ID]": "id", "[ARGS]": ""}),
            special=True,
        ),
    ),
    id_length=9,
)
DEEPSEEK = ToolFormat(
    "deepseek",
    (
        Calls(
            opens=("<｜tool▁calls▁begin｜>",),
            each=("<｜tool▁call▁begin｜>",),
            closes=("```", "<｜tool▁call▁end｜>"),
            ends=("<｜tool▁calls▁end｜>",),
            # V3 and R1 write type, separator, name and a fence; V3.1 writes name and separator. The last name counts.
            heads=Heads({"<｜tool▁sep｜>": "name", "```json": ""}),
            special=True,
        ),
    ),
)
KIMI = ToolFormat(
    "kimi",
    (
        Calls(
            opens=("<|tool_calls_section_begin|>",),
            each=("<|tool_call_begin|>",),
            closes=("<|tool_call_end|>",),
            ends=("<|tool_calls_section_end|>",),
            heads=Heads({"<|tool_call_argument_begin|>": ""}, prefix="functions.", counter=True),
            special=True,
        ),
    ),
)
GRANITE = ToolFormat(
    "granite",
    (Calls(opens=("<|tool_call|>", "<tool_call>", "<function_call>"), ends=("</tool_call>",)),),
)
PHI = ToolFormat(
    "phi",
    (
        Calls(opens=("<|tool_call|>",), ends=("<|/tool_call|>",)),
        Calls(opens=("functools",)),
    ),
)
COHERE = ToolFormat(
    "cohere",
    (
        Calls(
            opens=("<|START_ACTION|>",),
            ends=("<|END_ACTION|>",),
            keys=Keys(name=("tool_name",), call_id="", ignored=("tool_call_id",)),  # its ids begin anew each turn
            special=True,
        ),
    ),
)
NEMOTRON = ToolFormat("nemotron", (Calls(opens=("<TOOLCALL>",), ends=("</TOOLCALL>",)),))
JSON = ToolFormat("json", (_OBJECT_ALONE, _FENCED))

TOOL_FORMATS: Mapping[str, ToolFormat] = {
    form.name: form for form in (HERMES, LLAMA3, MISTRAL, DEEPSEEK, KIMI, GRANITE, PHI, COHERE, NEMOTRON, JSON)
}

THINK = Thoughts("think", (("<think>", "</think>"),))
BRACKET_THINK = Thoughts("mistral", (("[THINK]", "[/THINK]"),))
GRANITE_THINK = Thoughts(
    "granite",
    (("<think>", "</think>"), ("Here is my thought process:", "Here is my response:")),
    wrapper=("<response>", "</response>"),
)
COHERE_THINK = Thoughts(
    "cohere", (("<|START_THINKING|>", "<|END_THINKING|>"),), wrapper=("<|START_RESPONSE|>", "<|END_RESPONSE|>")
)
REASONING_FORMATS: Mapping[str, Thoughts] = {
    form.name: form for form in (THINK, BRACKET_THINK, GRANITE_THINK, COHERE_THINK)
}

HARMONY = Channels(
    name="harmony",
    start="<|start|>",
    channel="<|channel|>",
    constrain="<|constrain|>",
    message="<|message|>",
    ends=("<|end|>", "<|return|>", "<|call|>"),
    reasoning=("analysis",),
    prefix="functions.",
)
