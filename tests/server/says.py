"""An engine that says a text, and a chat template that writes tools as Qwen's does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from aphrodite.text.tokenizer import Tokenizer
from aphrodite.types.request import Request
from tests.server.engine import ScriptedEngine

TOOLS_TEMPLATE = """{{- bos_token }}{%- if tools %}tools: {{ tools | tojson }} as <tool_call></tool_call>
{% endif %}{%- for m in messages %}<{{ m.role }}>
{%- if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}{{ '\\n' }}
{%- endfor %}{%- if add_generation_prompt %}<assistant>{% if enable_thinking %}<think>{% endif %}{%- endif %}"""

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "how it is",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def saying(
    folder: Path, text: str, reason: str = "stop", pause_s: float = 0.0, ends: threading.Event | None = None
) -> ScriptedEngine:
    """An engine whose answer to everything is this text; it ends when that is set, else at once."""
    tokenizer = Tokenizer.find(folder)
    assert tokenizer is not None
    ids = tokenizer.encode_bare(text)
    assert tokenizer.decode(ids) == text, "the tokenizer cannot say this"

    def script(request: Request) -> Iterator[int | float | str]:
        for one in ids:
            if pause_s:
                yield pause_s
            yield one
        while ends is not None and not ends.is_set():
            yield 0.01
        yield reason

    return ScriptedEngine(script)
