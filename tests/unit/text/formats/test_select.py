"""Formats are taken by name, or by what a checkpoint's template and vocabulary show, and the reason is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from aphrodite.errors import UsageError
from aphrodite.text.detokenizer import Detokenizer
from aphrodite.text.formats.extract import Extractor
from aphrodite.text.formats.select import reasoning_format_names, select, tool_format_names
from aphrodite.text.formats.table import HARMONY
from aphrodite.text.tokenizer import Tokenizer
from tests.unit.text.formats.fixtures import of
from tests.unit.text.formats.test_extract import calls, text
from tests.unit.text.kinds import END, KINDS, TURN


@pytest.mark.parametrize(
    ("template", "tokens", "tools", "reasoning"),
    [
        ("{% if tools %}<tool_call>{% endif %}{{ '<think>' }}", (), "hermes", "think"),
        ("{% if tools %}<tool_call>{% endif %}", ("<think>", "</think>"), "hermes", "think"),
        ("{% if tools %}{{ '[TOOL_CALLS]' }}{% endif %}", ("[THINK]",), "mistral", "mistral"),
        ("{% if tools %}{{ '<｜tool▁call▁begin｜>' }}<tool_call>{% endif %}</think>", (), "deepseek", "think"),
        ("{% if tools %}<|tool_calls_section_begin|><|tool_call_begin|>{% endif %}", (), "kimi", None),
        ("{% if tools %}<|START_ACTION|>{% endif %}<|START_THINKING|>", (), "cohere", "cohere"),
        ("{% if tools %}<TOOLCALL>{% endif %}<think>", (), "nemotron", "think"),
        ("{% if tools %}functools[{% endif %}", (), "phi", None),
        ("{% if tools %}<|tool_call|>{% endif %}<response></response>", (), "granite", "granite"),
        ("{% if tools %}<|start_of_role|><tool_call>{% endif %}", (), "granite", None),
        ("{% if tools %}<|python_tag|>{% endif %}", (), "llama3", None),
        ("{% if tools %}respond in JSON{% endif %}", ("<|python_tag|>",), "llama3", None),
        ("{% if tools %}<tool_call>{% endif %}", ("<|python_tag|>",), "hermes", None),  # Hermes on Llama 3
        ("{% if tools %}respond in JSON{% endif %}", (), "json", None),
        ("{% if tools %}<tool_call><function=f>{% endif %}", (), None, None),
        ("{{ messages }}", ("<|python_tag|>",), None, None),
        ("", (), None, None),
    ],
)  # fmt: skip
def test_markers_give_a_format_away(
    template: str, tokens: tuple[str, ...], tools: str | None, reasoning: str | None
) -> None:
    found = select({"default": template}, tokens)
    assert found.format == of(tools or "", reasoning or "")
    assert found.tools_reason and found.reasoning_reason


def test_channels_are_both() -> None:
    for template, tokens in (("<|channel|><|message|>", ()), ("", ("<|channel|>", "<|message|>"))):
        assert select({"default": template}, tokens).format.channels is HARMONY
    assert select({}, (), tools="harmony").format.channels is HARMONY
    with pytest.raises(UsageError, match="cannot be combined"):
        select({}, (), tools="harmony", reasoning="think")


def test_a_name_goes_before_all_signs() -> None:
    qwen = {"default": "{% if tools %}<tool_call>{% endif %}<think>"}
    assert select(qwen, (), tools="json").format == of("json", "think")
    assert select(qwen, (), tools="none", reasoning="none").format == of()
    assert select(qwen, (), reasoning="mistral").format == of("hermes", "mistral")
    with pytest.raises(UsageError, match=r"tool_call_parser must be one of auto, none, harmony, hermes.*got 'qwen'"):
        select(qwen, (), tools="qwen")
    with pytest.raises(UsageError, match="reasoning_parser must be one of"):
        select(qwen, (), reasoning="")


@pytest.mark.parametrize("kind", KINDS)
def test_markers_that_are_special_tokens_are_kept_and_others_are_not(kind: str, folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.find(folders[kind])
    assert tokenizer is not None and {TURN, END} <= tokenizer.special_tokens < tokenizer.added_tokens
    ids = [token for part in ("a", TURN, " the", END, "b") for token in tokenizer.encode_bare(part)]
    shown = Detokenizer(tokenizer, kept=[END])
    got = shown.append(ids) + shown.finish()
    unwanted = [token for token in ids if tokenizer.token(token) != TURN]
    assert got == tokenizer.decode(unwanted, skip_special_tokens=False) and END in got and TURN not in got


def test_channels_are_read_from_tokens(folders: dict[str, Path]) -> None:
    """From special tokens to events, through the detokenizer: `<|end|>` is a marker, `<|turn|>` none."""
    tokenizer = Tokenizer.find(folders["byte_level"])
    assert tokenizer is not None
    format = select({}, (), tools="harmony").format
    kept = format.kept(tokenizer.special_tokens)
    assert kept == {END}
    ids = tokenizer.encode_bare(
        f"<|channel|>analysis<|message|>the{END}{TURN}<|start|>assistant to=functions.f<|message|>{{}}"
    )
    shown, machine = Detokenizer(tokenizer, kept=kept), Extractor(format, prompt="<|start|>assistant", tools=("f",))
    events = [event for token in ids for event in machine.feed(shown.append([token]))]
    events += [*machine.feed(shown.finish()), *machine.finish()]
    assert calls(events) == [("f", "{}", True)] and text(events) == ""


def test_the_documentation_has_every_format() -> None:
    page = (Path(__file__).parents[4] / "docs/clients.md").read_text()
    for name in {*tool_format_names(), *reasoning_format_names()} - {"auto", "none"}:
        assert f"| `{name}` |" in page, name
