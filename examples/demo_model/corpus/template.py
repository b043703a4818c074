"""The chat template, as Jinja for the model's folder and as Python for the making of training text; a test holds both equal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

BEGIN, END_OF_TEXT = "<|begin|>", "<|endoftext|>"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
SPECIAL = (END_OF_TEXT, BEGIN, START, END, PAD)
CALL, CALL_END = "<tool_call>", "</tool_call>"
ADDED = (CALL, CALL_END, "<tools>", "</tools>")  # ordinary text that is always one token each

TOOLS_BEFORE = "You may call these functions:\n<tools>\n"
TOOLS_AFTER = '\n</tools>\nA call has this form:\n<tool_call>\n{"name": "function", "arguments": {"argument": "value"}}\n</tool_call>'

JINJA = (
    "{{- bos_token }}\n"
    "{%- if tools %}\n"
    "    {{- '<|im_start|>system\\n' }}\n"
    "    {%- if messages and messages[0].role == 'system' %}\n"
    "        {{- messages[0].content + '\\n\\n' }}\n"
    "    {%- endif %}\n"
    "    {{- " + json.dumps(TOOLS_BEFORE) + " }}\n"
    "    {%- for tool in tools %}\n"
    "        {{- tool | tojson }}\n"
    "        {%- if not loop.last %}{{ '\\n' }}{% endif %}\n"
    "    {%- endfor %}\n"
    "    {{- " + json.dumps(TOOLS_AFTER) + " + '<|im_end|>\\n' }}\n"
    "{%- endif %}\n"
    "{%- for message in messages %}\n"
    "    {%- if not (tools and loop.first and message.role == 'system') %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n' }}\n"
    "        {%- if message.content %}{{ message.content }}{% endif %}\n"
    "        {%- for tool_call in message.tool_calls or [] %}\n"
    "            {%- set call = tool_call.function if tool_call.function else tool_call %}\n"
    "            {%- if message.content or not loop.first %}{{ '\\n' }}{% endif %}\n"
    "            {{- '<tool_call>\\n{\"name\": ' + (call.name | tojson) + ', \"arguments\": ' }}\n"
    "            {{- call.arguments if call.arguments is string else (call.arguments | tojson) }}\n"
    "            {{- '}\\n</tool_call>' }}\n"
    "        {%- endfor %}\n"
    "        {{- '<|im_end|>\\n' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}\n"
)


def render(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), *, open_answer: bool = False
) -> str:
    """The text of a chat, as the template writes it."""
    parts = [BEGIN]
    if tools:
        first = messages[0]["content"] + "\n\n" if messages and messages[0]["role"] == "system" else ""
        listing = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        parts.append(f"{START}system\n{first}{TOOLS_BEFORE}{listing}{TOOLS_AFTER}{END}\n")
    for place, message in enumerate(messages):
        if tools and place == 0 and message["role"] == "system":
            continue
        texts = [message["content"]] if message.get("content") else []
        for call in message.get("tool_calls", ()):
            function = call["function"]
            arguments = json.dumps(function["arguments"], ensure_ascii=False)
            name = json.dumps(function["name"], ensure_ascii=False)
            texts.append(f'{CALL}\n{{"name": {name}, "arguments": {arguments}}}\n{CALL_END}')
        parts.append(f"{START}{message['role']}\n" + "\n".join(texts) + f"{END}\n")
    if open_answer:
        parts.append(f"{START}assistant\n")
    return "".join(parts)
