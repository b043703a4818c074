"""What a model writes is found whatever the cutting, and what is no call stays text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aphrodite.text.formats.describe import OutputFormat
from aphrodite.text.formats.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning
from aphrodite.text.formats.extract import Extractor, id_maker
from aphrodite.text.formats.table import HARMONY, REASONING_FORMATS, TOOL_FORMATS
from tests.unit.text.formats.fixtures import ARGS, FIXTURES, of

TOOLS = ("get_weather", "search")
HERMES = of("hermes", "think")
CHANNELS = OutputFormat(channels=HARMONY)


def events(
    format: OutputFormat,
    parts: Sequence[str],
    prompt: str = "",
    begun: str = "",
    tools: Sequence[str] | None = TOOLS,
) -> list[Event]:
    count = itertools.count()
    machine = Extractor(format, prompt=prompt, begun=begun, tools=tools, new_id=lambda: f"id {next(count)}")
    found = [event for part in parts for event in machine.feed(part)]
    return [*found, *machine.finish()]


def joined(found: Sequence[Event]) -> list[Event]:
    """The same with texts of one kind that follow each other in one event."""
    result: list[Event] = []
    for event in found:
        last = result[-1] if result else None
        if isinstance(event, (Content, Reasoning)) and type(event) is type(last):
            result[-1] = type(event)(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments) and event.index == last.index:
            result[-1] = CallArguments(event.index, last.text + event.text)
        else:
            result.append(event)
    return result


def text(found: Sequence[Event], kind: type[Content] | type[Reasoning] = Content) -> str:
    return "".join(event.text for event in found if isinstance(event, kind))


def calls(found: Sequence[Event]) -> list[tuple[str, str, bool]]:
    """(name, arguments, complete) of each call, after checking that their events are in order."""
    result: list[tuple[str, str, bool]] = []
    name, arguments, is_open = "", "", False
    for event in found:
        if isinstance(event, CallStart):
            assert event.index == len(result) and not is_open
            name, arguments, is_open = event.name, "", True
        elif isinstance(event, CallArguments):
            assert event.index == len(result) and is_open and event.text
            arguments += event.text
        elif isinstance(event, CallEnd):
            assert event.index == len(result) and is_open
            result.append((name, arguments, event.complete))
            is_open = False
        else:
            assert event.text and not is_open
    assert not is_open
    return result


@pytest.mark.parametrize("name", FIXTURES)
def test_what_a_published_template_asks_for_is_found(name: str) -> None:
    one = FIXTURES[name]
    for parts in ([one.output], one.output):
        found = events(one.format, parts, one.prompt, one.begun)
        assert calls(found) == [(*call, True) for call in one.calls]
        assert text(found) == one.content
        assert text(found, Reasoning) == one.reasoning
        if one.ids:
            assert tuple(event.call_id for event in found if isinstance(event, CallStart)) == one.ids


@pytest.mark.parametrize("name", [name for name, one in FIXTURES.items() if one.calls and name != "hermes"])
def test_a_call_is_told_of_before_its_arguments_are_whole(name: str) -> None:
    """But for the fixture in which the arguments come before the name."""
    one = FIXTURES[name]
    machine = Extractor(one.format, prompt=one.prompt, begun=one.begun, tools=TOOLS)
    early = machine.feed(one.output[: one.output.index("days")])
    assert [event.name for event in early if isinstance(event, CallStart)] == ["get_weather"]
    assert "Zürich" in "".join(event.text for event in early if isinstance(event, CallArguments))


@pytest.mark.parametrize("fixture", FIXTURES)
def test_without_tools_a_call_is_text(fixture: str) -> None:
    one = FIXTURES[fixture]
    found = events(one.format, [one.output], one.prompt, one.begun, tools=None)
    assert calls(found) == []
    assert text(found, Reasoning).startswith(one.reasoning)
    said = text(found) + text(found, Reasoning)
    assert all("days" in said if arguments == ARGS else "q" in said for _, arguments in one.calls)


MARKERS = sorted(
    {marker for name in TOOL_FORMATS for marker in of(name).markers()}
    | {marker for name in REASONING_FORMATS for marker in of("", name).markers()}
    | CHANNELS.markers()
)
FORMATS = [
    *(of(tools, reasoning) for tools in TOOL_FORMATS for reasoning in ("think", "mistral", "granite")),
    CHANNELS,
]
PIECES = [
    *MARKERS, "{", "}", "[", "]", ",", ":", '"', "\\", "\\u12", "\\ud83d\\ude00", "\\n", "\n", " ", "\x00", "name",
    '"name"', '"arguments"', '"parameters"', '"search"', '{"name": "search", "arguments": ', "null", "true", "-1e5",
    '{"a": "b"}', '"{\\"a\\": 1}"', "functions.search", " to=functions.search", "assistant", "final", "analysis",
    "search", "function", '"function": ', "日本", "x", *(marker[:-1] for marker in MARKERS[::3]),
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.one_of(
        st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
        st.sampled_from(sorted(one.output for one in FIXTURES.values())),
    ),
    st.data(),
)
def test_no_cut_changes_the_events(format: OutputFormat, output: str, data: st.DataObject) -> None:
    prompt = data.draw(
        st.sampled_from(["", "<think>\n", "<|start|>assistant", "<|start|>a<|channel|>final<|message|>"])
    )
    tools = data.draw(st.sampled_from([None, TOOLS]))
    whole = joined(events(format, [output], prompt, tools=tools))
    calls(whole)
    assert joined(events(format, output, prompt, tools=tools)) == whole, "one character at a time"
    places = sorted(data.draw(st.lists(st.integers(0, len(output)), max_size=6)))
    parts = [output[start:end] for start, end in itertools.pairwise([0, *places, len(output)])]
    assert joined(events(format, parts, prompt, tools=tools)) == whole, parts


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([of(tools) for tools in TOOL_FORMATS]),
    st.lists(
        st.sampled_from([*PIECES[: len(MARKERS)], "{", "[", "word", "]", '"', "{'name'", ' "q" ', "12"]), max_size=9
    ),
)
def test_nothing_of_an_output_without_a_call_is_lost(format: OutputFormat, pieces: list[str]) -> None:
    output = "".join(pieces)
    found = events(format, [output])
    assume(not calls(found))
    assert text(found) == output


@pytest.mark.parametrize(
    ("output", "call", "rest"),
    [
        ('<tool_call>{"name": "f", "arguments": {"a": 1', ("f", '{"a": 1', False), ""),  # cut off
        (
            '<tool_call>{"name": "f", "arguments": {"a": 1]} </tool_call> b',
            ("f", '{"a": 1', False),
            "]} </tool_call> b",
        ),
        ('<tool_call>{"name": "f", "arguments": {"a": True}}', ("f", '{"a": True', False), "}}"),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>b', ("f", '{"a": 1}', True), "b"),  # a brace short
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}} </tool_call>', ("f", '{"a": 1}', True), "} </tool_call>"),
        ('<tool_call>{"name": "f"}</tool_call>', ("f", "{}", True), ""),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', ("f", "{}", True), ""),
        (
            '<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"\\u00fc\\ud83d\\ude00\\"}"}',
            ("f", '{"a": "ü😀"}', True),
            "",
        ),
        ('<tool_call>{"arguments": {}, "x": [{"y": 1}], "name": "f"}</tool_call>', ("f", "{}", True), ""),
        ('a <tool_call> <tool_call>{"name": "f", "arguments": {}}', ("f", "{}", True), "a <tool_call>"),
    ],
)
def test_a_broken_call_keeps_what_is_right_and_the_rest_is_text(
    output: str, call: tuple[str, str, bool], rest: str
) -> None:
    found = events(of("hermes"), [output])
    assert calls(found) == [call]
    assert text(found) == rest


@pytest.mark.parametrize(
    ("written", "meant"),
    [("a\nb\tc\x01", "a\nb\tc\x01"), (r"\d+ \x \u12", r"\d+ \x \u12"), (r"\u00fc \\ \"", 'ü \\ "')],
)
def test_what_is_plain_in_a_string_becomes_json(written: str, meant: str) -> None:
    ((_, arguments, complete),) = calls(
        events(of("hermes"), f'<tool_call>{{"name":"f","arguments":{{"a":"{written}"}}}}')
    )
    assert complete and json.loads(arguments) == {"a": meant}


def test_only_a_tool_of_the_request_is_called_without_a_marker() -> None:
    for name in ("llama3", "json"):
        assert calls(events(of(name), ['{"name": "search", "parameters": {}}']))
        for output in ('{"name": "Ada", "parameters": {}}', '{"name": "search", "age": 3}', '["search"]', "[1, 2]"):
            found = events(of(name), [output])
            assert calls(found) == [] and text(found) == output
        prose = 'So: {"name": "search", "parameters": {}}'
        assert text(events(of(name), [prose])) == prose


def test_thoughts_begin_where_the_answer_does() -> None:
    output = "HTML has no <think> tag, nor </think>."
    assert text(events(HERMES, [output])) == output
    found = events(HERMES, ['<think>a</think><tool_call>{"name":"f"}</tool_call>\n<think>b</think>c'])
    assert [type(event) for event in found] == [Reasoning, CallStart, CallArguments, CallEnd, Reasoning, Content]
    assert text(events(HERMES, ["x"], prompt="what is <think>?<|im_start|>assistant\n")) == "x"


def test_a_special_marker_ends_a_thought_and_a_plain_one_does_not() -> None:
    plain = 'I could write <tool_call>{"name": "f"}</tool_call> here'
    assert text(events(HERMES, [f"<think>{plain}</think>"]), Reasoning) == plain
    found = events(of("mistral", "mistral"), ["[THINK]hm [TOOL_CALLS]search[ARGS]{}"])
    assert text(found, Reasoning) == "hm" and calls(found) == [("search", "{}", True)]


def test_white_space_within_text_is_kept() -> None:
    for output in ("  a \n\n b \t", " ", "\n", "a <", "a <tool_", " <think"):
        assert text(events(HERMES, output)) == output


@pytest.mark.parametrize(
    ("output", "content"),
    [
        ("plain text", "plain text"),
        ("to the point", "to the point"),
        ("<|channel|>final", "<|channel|>final"),
        ("<|channel|>final<|message|>a<|end|> b", "a\n\n b"),
        ("<|channel|>" + "x" * 600, "<|channel|>" + "x" * 600),
        ("<|channel|>final<|message|>a<|channel|>final<|message|>b", "a\n\nb"),
        ("<|channel|>other<|message|>a", "a"),
        ("", ""),
    ],
)
def test_what_is_no_message_in_a_channel_is_content(output: str, content: str) -> None:
    assert text(events(CHANNELS, [output], prompt="<|start|>assistant")) == content


def test_a_message_to_a_tool_need_not_be_json() -> None:
    output = "<|channel|>analysis to=python code<|message|>print(1)\nx<|call|>"
    assert calls(events(CHANNELS, output)) == [("python", "print(1)\nx", False)]
    assert calls(events(CHANNELS, "<|channel|>commentary to=functions.f<|message|><|call|>")) == [("f", "{}", True)]


ENDLESS = [
    "<tool_call>", '<tool_call>{"a":"', '<tool_call>[{"name":"f","arguments":[', "{", '{"', "[", " ", "\n", "<",
    "<tool",
    "[TOOL_CALLS]", "[TOOL_CALLS]a[ARGS]", '<tool_call>{"name":"', "[TOOL_CALLS]f[ARGS]" + '{"a":' * 50, "```json\n",
    "<think>", "\\", '"', "<|channel|>", "<|start|>", "<|channel|>a<|message|>", " to=a", "functools[", ";", "```",
    '<tool_call>{"name":"f","arguments":{"a":"\\', "[TOOL_CALLS]f[ARGS]{\"a\":1",
]  # fmt: skip


@pytest.mark.parametrize("unit", ENDLESS)
def test_little_is_held_whatever_comes(unit: str) -> None:
    """What waits to be read again is bounded, so the work is linear in the text."""
    for format in FORMATS:
        machine = Extractor(format, tools=TOOLS)
        longest = 0
        for char in (unit * (600 // len(unit) + 1))[:600]:
            machine.feed(char)
            source = machine._source
            longest = max(longest, len(source.text) - source.at)
        machine.finish()
        assert longest <= max(map(len, MARKERS))


def test_ids_are_of_the_kind_that_the_template_takes() -> None:
    assert len(id_maker(of("mistral"))()) == 9
    assert id_maker(of("hermes"))().startswith("call_")
    made = {id_maker(of("mistral"))() for _ in range(100)}
    assert len(made) == 100 and all(one.isalnum() and one.isascii() for one in made)
    long = json.dumps({"id": "a b\n" * 50, "name": "search", "arguments": {}})
    assert [event.call_id for event in events(of("json"), [long]) if isinstance(event, CallStart)] == ["id 0"]


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(), JSON_VALUES, max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_any_arguments_arrive_as_they_were_written(arguments: object, is_ascii: bool, indent: int | None) -> None:
    written = json.dumps(arguments, ensure_ascii=is_ascii, indent=indent)
    as_data = f'<tool_call>{{"name": "search", "arguments": {written}}}</tool_call>'
    assert calls(events(of("hermes"), as_data)) == [("search", written, True)]
    as_text = f'<tool_call>{{"name": "search", "arguments": {json.dumps(written, ensure_ascii=is_ascii)}}}</tool_call>'
    assert calls(events(of("hermes"), as_text)) == [("search", written, True)]
