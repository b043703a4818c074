"""An engine that says a text, and a chat template that writes tools as Qwen's does."""

from __future__ import annotations

from pathlib import Path

from aphrodite.text.tokenizer import Tokenizer
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


def saying(folder: Path, text: str, reason: str = "stop", pause_s: float = 0.0) -> ScriptedEngine:
    """An engine whose answer to everything is this text."""
    tokenizer = Tokenizer.find(folder)
    assert tokenizer is not None
    ids = tokenizer.encode_bare(text)
    assert tokenizer.decode(ids) == text, "the tokenizer cannot say this"
    items = [item for one in ids for item in ((pause_s, one) if pause_s else (one,))]
    return ScriptedEngine(lambda request: [*items, reason])
