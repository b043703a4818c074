"""What published chat templates are made of renders as with Transformers: same text, or refused by both."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template

from aphrodite.errors import UsageError
from aphrodite.text.chat import ChatTemplate
from aphrodite.text.tokenizer import Tokenizer
from tests.unit.text.family_templates import FAMILY_TEMPLATES

CALL = {"id": "abc123456", "type": "function",
        "function": {"name": "look_up", "arguments": {"place": "Köln <b>", "days": 3, "units": None}}}  # fmt: skip
RAIN = '{"sky": "Regen ☂", "at": [1, 2.5]}'
TOOLS = [
    {"type": "function", "function": {
        "name": "look_up", "description": "Wetter\nnachschauen & \"quoted\"",
        "parameters": {"type": "object", "required": ["place"], "properties": {
            "place": {"type": "string", "description": "Where", "enum": ["Köln", "Bonn"]},
            "days": {"type": "integer", "default": 1},
            "units": {"type": ["string", "null"]},
            "many": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "number"}}}},
        }},
        "return": {"type": "string"},
    }},
    {"type": "function", "function": {"name": "now", "description": "Time", "parameters": {
        "type": "object", "properties": {}}}},
]  # fmt: skip
USER = {"role": "user", "content": "  How is it?\n"}
SYSTEM = {"role": "system", "content": "Be brief. /no_think\n"}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n Fine ☺ "}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "turns": [USER, ANSWER, USER],
    "system, turns": [SYSTEM, USER, {"role": "assistant", "content": "So?"}, USER, ANSWER],
    "reasoning": [USER, {"role": "assistant", "content": "Yes", "reasoning_content": "\nbecause\n"}, USER,
                  {"role": "assistant", "content": "No", "thinking": "hm"}],
    "call": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
             {"role": "tool", "content": RAIN, "tool_call_id": "abc123456", "name": "look_up"}],
    "call, answered": [SYSTEM, USER, {"role": "assistant", "content": "", "tool_calls": [CALL]},
                       {"role": "tool", "content": RAIN, "tool_call_id": "abc123456"}, ANSWER, USER],
    "two calls": [USER, {"role": "assistant", "content": "Both", "tool_calls": [CALL, {"function": {
        "name": "now", "arguments": '{"a": 1}'}, "type": "function", "id": "xyz987654"}]},
        {"role": "tool", "content": RAIN, "tool_call_id": "abc123456"},
        {"role": "tool", "content": "12", "tool_call_id": "xyz987654"}],
    "call of a wrong id": [USER, {"role": "assistant", "tool_calls": [{**CALL, "id": "short"}]}],
    "roles out of turn": [USER, USER],
    "only the system": [SYSTEM],
    "an unknown role": [USER, {"role": "critic", "content": "x"}],
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no prompt": {"add_generation_prompt": False},
    "tools": {"tools": TOOLS},
    "documents": {"documents": [{"doc_id": 1, "title": "T", "text": "Es regnet."}], "controls": {"citations": True}},
    "no thinking": {"enable_thinking": False, "tools_in_user_message": False, "tools": TOOLS, "thinking": True},
    "built in": {"builtin_tools": ["interpreter", "browser", "look_up"], "reasoning_effort": "high",
                 "custom_tools": TOOLS[:1], "date_string": "1 May 2025"},
}  # fmt: skip


@pytest.fixture(scope="module")
def both(folders: dict[str, Path]) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    ours = Tokenizer.find(folders["byte_level"])
    assert ours is not None
    return ours, PreTrainedTokenizerFast.from_pretrained(str(folders["byte_level"]))


def outcome(render: Callable[[], str]) -> str | Exception:
    """What it gives, or how the template fails."""
    try:
        return render()
    except (TemplateError, TypeError) as error:
        return error


@pytest.mark.parametrize("name", FAMILY_TEMPLATES)
def test_templates_of_published_families_render_as_with_transformers(
    name: str, both: tuple[Tokenizer, PreTrainedTokenizerFast]
) -> None:
    tokenizer, theirs = both
    source = FAMILY_TEMPLATES[name]
    template = ChatTemplate({"default": source}, theirs.special_tokens_map)
    rendered = 0
    for about, chat in CHATS.items():
        for options in OPTIONS.values():
            options = {"add_generation_prompt": True, **options}
            before = copy.deepcopy((chat, options))
            expected = outcome(
                partial(theirs.apply_chat_template, chat, chat_template=source, tokenize=False, **options)
            )
            if isinstance(expected, Exception):
                with pytest.raises(UsageError, match=re.escape(str(expected))):
                    template.render(chat, **options)
                continue
            rendered += 1
            assert template.render(chat, **options) == expected, (about, options)
            if "<think>" not in expected and "</s>" not in expected:  # what is a token there, and text here
                ids = theirs(expected, add_special_tokens=False).input_ids
                assert template.encode(chat, tokenizer, **options) == ids, (about, options)
            assert (chat, options) == before
    assert rendered >= len(CHATS) * len(OPTIONS) // 3


# A line each (one that ends in a backslash goes on): what templates use of Jinja, and of what Transformers adds to it.
CONSTRUCTS = r"""
{{ messages[0]['role'] }}{{ messages[-1].content }}{{ messages[1:] | length }}{{ messages[::-1][0].role }}
{{ messages | selectattr('role','equalto','user') | map(attribute='content') | list | tojson }}
{{ messages | rejectattr('role','equalto','tool') | list | length }}\
{{ messages | map(attribute='n', default='-') | list }}
{{ messages | selectattr('tool_calls','undefined') | list | length }}\
{{ messages | selectattr('content') | list | length }}
{{ messages | selectattr('role','in',['user','tool']) | map(attribute='role') | join('|') }}
{% for g in messages | groupby('role') %}{{ g.grouper }}:{{ g.list | length }},{% endfor %}
{{ tools | tojson }}{{ tools | tojson(indent=4) }}{{ tools | tojson(indent=2, ensure_ascii=True, sort_keys=true) }}
{{ tools | tojson(separators=(',',':')) }}{{ 'a\u2028"<>&\'' | tojson }}{{ [1.0, none, (2, 3)] | tojson }}
{% for k, v in tools[0].function.items() if k != 'return' %}{{ k ~ (v | tojson if v is not string else v) }}\
{% endfor %}
{% for k, v in tools[0].function.parameters.properties | dictsort %}{{ k }}={{ v.type }}{% endfor %}
{% set out = messages[2].tool_calls[0].function | tojson %}{{ out[:-1] }}{{ messages[2]['content'] is none }}
{{ messages[4].content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}
{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == 'tool' %}P{% endif %}\
{{ loop.cycle('a','b') }}{{ loop.changed(m.role) }}{{ loop.revindex0 }}{% endfor %}
{% macro m(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 3, 4, z=5) }}\
{{ m(1) | trim | upper }}
{% macro f2() %}[{{ caller('v') }}]{% endmacro %}{% call(x) f2() %}<{{ x }}>{% endcall %}
{% macro b() %}{{ zz }}{% endmacro %}{% set zz = 1 %}{{ b() }}{% block a %}z{% endblock %}{{ self.a() }}
{{ strftime_now('%Y') }}{% if strftime_now is defined %}{{ strftime_now("%d %b %Y") }}{% endif %}
{{ raise_exception('no ' ~ 1) }}
{% generation %}{{ messages[0].content }}{% endgeneration %}{% generation %}{% set q = 1 %}{% endgeneration %}{{ q }}
{% set x %}a {{ messages[0].role }} b{% endset %}{{ x }}{{ x | length }}{{ x is string }}{% set y | upper %}\
abc{% endset %}{{ y }}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{% raw %}{{ x }}{% endraw %}{{ '{{' }}{% filter upper %}\
abc{% endfilter %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}\
{{ ns.no is defined }}
{% set d = dict(messages[0], role='x') %}{{ d.role }}{{ d.content }}{{ dict.fromkeys(['a','b'], 1) }}\
{{ d.get('c', 'z') }}
{{ {'a':1}.keys() | list }}{{ {'a':1}.values() | list }}{{ {'a': 1} | items | list }}{{ {'a': {'b': [1]}}.a.b[0] }}
{% set l = [1,2] + [3] %}{{ l | sum }}{{ l | max }}{{ l | reverse | list }}{{ l[1:] }}{{ l.index(2) }}{{ l.count(1) }}
{{ [3,1,2] | sort(reverse=true) }}{{ ['b','A','a'] | unique | list }}{{ [1,2,3,4] | batch(2) | list }}\
{{ [1,2,3] | slice(2) | list }}
{{ [1,2,3] | select('odd') | list }}{{ [1,2,3] | reject('odd') | list }}{{ ['a'] | map('replace','a','b') | list }}
{{ 'abc' | replace('b','x') | upper | capitalize | title }}{{ ' x ' | trim }}{{ 'xax' | trim('x') }}\
{{ 'a b' | wordcount }}
{{ 'abcdef' | truncate(5, true, '..') }}{{ 'a' | center(5) }}|{{ 'a\nb' | indent(width=2, first=true) }}\
{{ '' | d('e', true) }}
{{ '5' | int + 1 }}{{ '5.5' | float }}{{ 3.14159 | round(2) }}{{ -3 | abs }}{{ 7 // 2 }}{{ 7 % 3 }}{{ 2 ** 3 }}\
{{ 7 / 2 }}
{{ 'a=%s b=%d' | format('x', 3) }}{{ '%5s|%.2f' % ('x', 1.234) }}{{ '{:,} {a}'.format(1234567, a=2) }}
{{ ' '.join(['a','b']) }}{{ 'abc'.find('c') }}{{ 'a-b'.partition('-') }}{{ 'abc'.removeprefix('a') }}\
{{ 'a b c'.rsplit(' ', 1) }}
{{ "it's" 'q"' }}{{ '\t\n\\' }}{{ 'ü\u00e9' }}{{ 1_000 }}{{ 0x10 }}{{ 1e3 }}{{ True }}{{ None }}{{ (1,) }}{{ () }}
{{ 1 if true else 2 }}{{ 1 if false }}{{ true and false or true }}{{ 1 < 2 < 3 }}{{ 'a' not in 'bc' }}\
{{ 'x' ~ 1 ~ none }}
{{ none is none }}{{ 1 is number }}{{ true is boolean }}{{ {} is mapping }}{{ [] is sequence }}{{ 'a' is iterable }}\
{{ 2 is gt 1 }}
{{ 4 is divisibleby 2 }}{{ 1 is sameas 1 }}{{ raise_exception is callable }}{{ 'a' is in 'abc' }}\
{{ 'upper' is filter }}
{{ nope }}{{ nope.x is defined }}{{ nope | length }}{{ nope | join }}{% for a in nope %}x{% endfor %}\
{{ nope == none }}
{{ nope.x.y }}
{{ nope + 'a' }}
{{ 'a' + 1 }}
{{ nope | tojson }}
{{ 1 / 0 }}
{{ messages[99] is defined }}{{ messages[99] }}{{ messages[0].nope }}{{ messages[0].get('nope', []) }}{{ [1][5] }}\
{{ {}['a'] }}
{{ 'a<b' | e }}{{ ('a<b' | e) ~ '<' }}{{ 'a<b' | safe }}{{ 'a b/ü' | urlencode }}
{% for x in range(1, 10, 3) %}{{ x }}{% else %}e{% endfor %}{% for x in [] %}{% else %}none{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}\
{% endfor %}
{% for x in [1,[2,[3]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth0 }}\
{% endif %}{% endfor %}
{% set c = cycler('a','b') %}{{ c.next() }}{{ c.next() }}{% set j = joiner(', ') %}{% for x in [1,2] %}{{ j() }}\
{{ x }}{% endfor %}
{%- if true -%}  a  {%- endif -%}   b   {{- 'c' -}}   d {# comment #}  y
{{ messages[0].items() | list }}{{ messages[2].tool_calls }}{{ [1, 'a', none, true, {'k': 1.5}] }}{{ 'abc'[::-1] }}
{% set x = namespace() %}{% set x.l = [] %}{% set x.l = x.l + ['a'] %}{{ x.l }}{% set n = namespace({'b': 2}) %}\
{{ n.b }}
{{ messages.append(1) }}
{{ messages[0].update({'role': 'x'}) }}
{{ ''.__class__ }}{{ messages.__init__ is defined }}
{{ ['', 'a'] | select | list }}{{ messages | tojson | length }}{{ messages is string }}{{ messages is sequence }}
"""


def test_constructs_of_jinja_do_what_they_do_in_transformers() -> None:
    chat = [SYSTEM, USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": RAIN}, ANSWER]
    variables = {"messages": chat, "tools": TOOLS, "documents": None, "add_generation_prompt": True}
    for source in CONSTRUCTS.replace("\\\n", "").strip().split("\n"):
        template = ChatTemplate({"default": source}, {})
        try:
            expected = _compile_jinja_template(source).render(**variables)
        except Exception:  # whatever it is
            with pytest.raises(UsageError):
                template.render(chat, tools=TOOLS)
        else:
            assert template.render(chat, tools=TOOLS) == expected, source
