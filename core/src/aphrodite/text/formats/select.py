"""Which formats a checkpoint's output is read as: by name, or by what its chat template and vocabulary hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from aphrodite.errors import UsageError
from aphrodite.text.formats.describe import OutputFormat
from aphrodite.text.formats.table import HARMONY, REASONING_FORMATS, TOOL_FORMATS

AUTO = "auto"
NONE = "none"

# What gives a format away, in the order in which to look: an earlier one's signs may stand beside a later one's.
_TOOL_SIGNS = (
    ("mistral", ("[TOOL_CALLS]",)),
    ("deepseek", ("<｜tool▁call▁begin｜>",)),
    ("kimi", ("<|tool_call_begin|>",)),
    ("cohere", ("<|START_ACTION|>",)),
    ("nemotron", ("<TOOLCALL>",)),
    ("phi", ("<|/tool_call|>", "functools[")),
    ("granite", ("<|tool_call|>", "<function_call>", "<|start_of_role|>")),
    ("hermes", ("<tool_call>",)),
    ("llama3", ("<|python_tag|>",)),
)
_REASONING_SIGNS = (
    ("mistral", ("[THINK]",)),
    ("cohere", ("<|START_THINKING|>",)),
    ("granite", ("</response>", "Here is my thought process:")),
    ("think", ("<think>", "</think>")),
)
# Forms that are not described: their markers are those of others, and what stands between is no JSON.
_OTHERS = ("<function=", "<arg_key>", "<parameter name=", "<｜DSML｜")
_CHANNEL_SIGNS = (HARMONY.channel, HARMONY.message)


@dataclass(frozen=True)
class Selection:
    """The formats, and a sentence on each of why it was taken."""

    format: OutputFormat
    tools_reason: str
    reasoning_reason: str

    @property
    def reasons(self) -> Mapping[str, str]:
        """By setting: the format's name, and why."""
        both = self.format.channels
        tools, thoughts = both or self.format.tools, both or self.format.thoughts
        return {
            "tool_call_parser": f"{tools.name if tools is not None else NONE}: {self.tools_reason}",
            "reasoning_parser": f"{thoughts.name if thoughts is not None else NONE}: {self.reasoning_reason}",
        }


def tool_format_names() -> tuple[str, ...]:
    """What a setting may say for tool calls."""
    return (AUTO, NONE, HARMONY.name, *TOOL_FORMATS)


def reasoning_format_names() -> tuple[str, ...]:
    """What a setting may say for reasoning."""
    return (AUTO, NONE, HARMONY.name, *REASONING_FORMATS)


def select(
    templates: Mapping[str, str], tokens: Collection[str], *, tools: str = AUTO, reasoning: str = AUTO
) -> Selection:
    """The formats for a checkpoint with these chat templates (text by name) and added tokens.

    tools, reasoning  names of formats, "none", or "auto": the template's markers decide, and where it writes none, the
                      vocabulary's
    UsageError if there is no such name, or if one of both is harmony and the other a format of its own.
    """
    for setting, name, legal in (
        ("tool_call_parser", tools, tool_format_names()),
        ("reasoning_parser", reasoning, reasoning_format_names()),
    ):
        if name not in legal:
            raise UsageError(f"{setting} must be one of {', '.join(legal)}, got {name!r}", subject=setting)
    text = "\n".join(templates.values())
    if HARMONY.name in (tools, reasoning):
        if not {tools, reasoning} <= {HARMONY.name, AUTO, NONE}:
            raise UsageError(
                f"harmony is a format of reasoning and tool calls together: tool_call_parser {tools!r} and "
                f"reasoning_parser {reasoning!r} cannot be combined",
                subject="tool_call_parser",
            )
        return Selection(OutputFormat(channels=HARMONY), "asked for by name", "asked for by name")
    if tools == AUTO and reasoning == AUTO and all(sign in text or sign in tokens for sign in _CHANNEL_SIGNS):
        why = f"the chat template or the vocabulary has {' and '.join(_CHANNEL_SIGNS)}"
        return Selection(OutputFormat(channels=HARMONY), why, why)
    tool_name, tools_reason = _tools(text, tokens) if tools == AUTO else (tools, "asked for by name")
    thoughts_name, reasoning_reason = (
        _found(_REASONING_SIGNS, text, tokens) if reasoning == AUTO else (reasoning, "asked for by name")
    )
    format = OutputFormat(tools=TOOL_FORMATS.get(tool_name), thoughts=REASONING_FORMATS.get(thoughts_name))
    return Selection(format, tools_reason, reasoning_reason)


def _tools(text: str, tokens: Collection[str]) -> tuple[str, str]:
    if text and "tools" not in text:
        return NONE, "the chat template does not read tools"
    other = next((sign for sign in _OTHERS if sign in text), None)
    if other is not None:
        return NONE, f"the chat template writes calls with {other!r}, a form that is not described: they stay text"
    name, why = _found(_TOOL_SIGNS, text, tokens)
    if name == NONE and text:
        return "json", "the chat template reads tools and has no known marker of calls"
    return name, why


def _found(signs: Collection[tuple[str, Collection[str]]], text: str, tokens: Collection[str]) -> tuple[str, str]:
    """The first format of which a sign stands in the template, then in the vocabulary; and why."""
    for where, place in (("chat template", text), ("vocabulary", tokens)):
        for name, marks in signs:
            mark = next((mark for mark in marks if mark in place), None)
            if mark is not None:
                return name, f"the {where} has {mark!r}"
    return NONE, "neither the chat template nor the vocabulary has a known marker"
