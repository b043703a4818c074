"""A template from anywhere ends soon, within bounded memory, and reaches nothing of Python."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest

from aphrodite.errors import ModelError, UsageError
from aphrodite.text.chat import ChatTemplate

MESSAGES = [{"role": "user", "content": "a" * 1000}]
LOOP = "{% for i in range(99999) %}"
END = "{% endfor %}"
BOMBS = {
    "nested loops": LOOP * 4 + "x" + END * 4,
    "empty loops": LOOP * 4 + END * 4,
    "template text": LOOP + LOOP + "x" * 5000 + END + END,
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless calls": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "recursive loops": "{% for x in [1, 2, 3] recursive %}{{ loop([1, 2, 3]) }}{% endfor %}",
    "+": "{% set ns = namespace(s='x') %}" + LOOP + "{% set ns.s = ns.s + ns.s %}" + END,
    "~": "{% set ns = namespace(s='x') %}" + LOOP + "{% set ns.s = ns.s ~ ns.s %}" + END,
    "set blocks": "{% set ns = namespace(s='x') %}" + LOOP + "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}" + END,
    "lists": "{% set ns = namespace(s=[1]) %}" + LOOP + "{% set ns.s = ns.s + ns.s %}" + END,
    "* text": "{{ 'x' * 10**10 }}",
    "* text, the other way": "{% set n = 10**10 %}{{ n * 'x' }}",
    "* list": "{% set x = [0] * 10**10 %}",
    "**": "{{ 9 ** (9 ** 9) }}",
    "** and *": "{% set ns = namespace(n=9) %}" + LOOP + "{% set ns.n = ns.n * ns.n %}" + END,
    "%": "{{ '%999999999d' % 1 }}",
    "% *": "{{ '%*d' % (999999999, 1) }}",
    "% dots": "{{ '%.999999999f' % 1 }}",
    "format": "{{ '{:999999999}'.format(1) }}",
    "format nested": "{{ '{:{}}'.format(1, 999999999) }}",
    "format many": "{{ ('{0}' * 100000).format('x' * 100000) }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "center": "{{ 'x' | center(10**10) }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "zfill": "{{ 'x'.zfill(10**10) }}",
    "expandtabs": "{{ ('\t' * 100000).expandtabs(100000) }}",
    "indent": "{{ ('\n' * 100000) | indent(100000, blank=true) }}",
    "indent by text": "{{ ('\n' * 100000) | indent('x' * 100000) }}",
    "replace": "{{ ('x' * 100000).replace('', 'y' * 100000) }}",
    "replace filter": "{{ ('x' * 100000) | replace('x', 'y' * 100000) }}",
    "replace, named": "{{ ('x' * 100000) | replace(old='x', new='y' * 100000) }}",
    "join": "{{ ('x' * 100000).join('y' * 100000) }}",
    "join list": "{{ ('x' * 100000).join(['y'] * 100000) }}",
    "join filter": "{{ range(99999) | join('x' * 100000) }}",
    "join map": "{{ range(99999) | map('string') | join('x' * 100000) }}",
    "batch": "{{ [1] | batch(10**10, 'x') | list }}",
    "slice": "{{ [1] | slice(10**10) | list }}",
    "tojson": "{{ [1] | tojson(indent=10**10) }}",
    "tojson of a tree": "{% set ns = namespace(t=[]) %}"
    + LOOP
    + "{% set ns.t = [ns.t, ns.t] %}{{ ns.t | tojson }}"
    + END,
    "a tree": "{% set ns = namespace(t=[]) %}" + LOOP + "{% set ns.t = [ns.t, ns.t] %}" + END + "{{ ns.t }}",
    "a tree of mappings": "{% set ns = namespace(t={}) %}" + LOOP + "{% set ns.t = {'a': ns.t, 'b': ns.t} %}" + END,
    "a tree of tuples": "{% set ns = namespace(t=()) %}"
    + LOOP
    + "{% set ns.t = (ns.t, ns.t) %}"
    + END
    + "{{ {ns.t: 1} }}",
    "a tree by dict": "{% set ns = namespace(t={}) %}"
    + LOOP
    + "{% set ns.t = dict(a=ns.t, b=ns.t) %}"
    + END
    + "{{ ns.t }}",
    "round": "{{ 1 | round(10**10, 'ceil') }}",
    "sum": "{{ ([[1]] * 100000) | sum(start=[]) }}",
    "many slices": "{% set s = 'x' * 10**7 %}" + LOOP + "{% set y = s[1:] %}" + END,
    "many searches": "{% set s = 'x' * 10**7 %}" + LOOP + "{% if 'y' in s %}{% endif %}" + END,
    "many tests": "{% set s = 'x' * 10**7 %}" + LOOP + "{% if 'y' is in s %}{% endif %}" + END,
    "many sorts": "{% set s = range(99999) | list %}" + LOOP + "{% set y = s | sort %}" + END,
    "many counts": "{% set s = range(99999) | list %}" + LOOP + "{% set y = s.count(1) %}" + END,
    "many arguments": "{% macro f() %}{{ varargs | length }}{% endmacro %}{% set s = range(99999) | list %}"
    + LOOP
    + "{% set y = f(*s) %}"
    + END,
    "division": "{% set n = ('1' * 10**7) | int(base=2) %}{{ n // (n // 3) }}",
    "separators": "{{ range(99999) | list | tojson(separators=('x' * 10**6, ':')) }}",
    "many splits": "{% set s = 'x' * 10**6 %}" + LOOP + "{% set y = s.split('x') %}" + END,
    "many trims": "{% set s = ' ' * 10**7 %}" + LOOP + "{% set y = s | trim %}" + END,
    "time": "{{ strftime_now('%Y' * 10**6) }}",
    "time width": "{{ strftime_now('%999999999Y') }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_would_go_on_for_ever_or_fill_the_memory_is_stopped(name: str) -> None:
    """Seconds of this process's own time, which other processes do not lengthen."""
    before, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    template = ChatTemplate({"default": BOMBS[name]}, {})
    with pytest.raises(UsageError, match=r"the chat template (is stopped|fails on these messages: RecursionError)"):
        template.render(MESSAGES)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert time.process_time() - before < 20 and grown < 1 << 20, f"{grown} KiB"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}{{ ('' | attr('__class__')).x }}",
        "{{ raise_exception.__globals__ }}",
        "{{ raise_exception.__globals__.os }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__init__=1) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ (1).to_bytes(10**10, 'big') }}",
        "{{ 'a'.encode() }}",
        "{{ '{0.__class__.__init__}'.format(namespace) }}",
        "{{ '{a.__class__}'.format_map({'a': 1}) }}",
        "{{ namespace }}",
        "{{ range }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{% extends 'x' %}",
    ],
)
def test_a_template_reaches_nothing_of_python_and_changes_no_message(source: str) -> None:
    messages = [{"role": "user", "content": "a"}]
    try:
        text = ChatTemplate({"default": source}, {}).render(messages)
    except UsageError:
        text = ""
    assert text == "" and messages == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    "source", ["{{ 'x' | urlize }}", "{{ 'x' | striptags }}", "{{ 'x' | pprint }}", "{{ lipsum() }}"]
)
def test_what_no_chat_template_needs_is_not_there(source: str) -> None:
    with pytest.raises((ModelError, UsageError), match=r"No filter named|'lipsum' is undefined"):
        ChatTemplate({"default": source}, {}).render(MESSAGES)


def test_long_chats_fit_the_budget() -> None:
    source = """{% set ns = namespace(found=0, all=[]) %}{% for message in messages %}
    {%- if '</think>' in message.content %}{% set ns.found = loop.index0 %}{% endif %}
    {%- set ns.all = ns.all + [message] %}{% endfor %}
    {%- for message in ns.all %}{{ '<' + message.role + '>' ~ (message.content | trim) + '\n' }}
    {%- if loop.last and messages | length == 1000 %}end{% endif %}{% endfor %}"""
    long = [{"role": "user", "content": "word " * 800}] * 1000  # about 4 million characters
    text = ChatTemplate({"default": source}, {}).render(long)
    assert text.endswith("word\nend") and text.count("<user>") == 1000


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ 2 * 3 }}{{ 'ab' * 2 }}{{ [1] * 2 }}{{ 2 ** 5 }}{{ 7 % 4 }}{{ '%s-%05d' % ('a', 7) }}",
         "6abab[1, 1]323a-00007"),
        ("{{ '{:>4}|{}'.format('a', 1) }}{{ '%s' | format('b') }}", "   a|1b"),
        ("{% for a, b in [(1, 2), (3, 4)] %}{{ loop.index }}/{{ loop.length }}:{{ a + b }}{{ loop.last }} {% endfor %}",
         "1/2:3False 2/2:7True "),
        ("{% for x in range(5) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}{% endif %}{{ x }}"
         "{% endfor %}", "02"),
        ("{{ {'a': [1, '<ü>'], 'b': none} | tojson }}", '{"a": [1, "<ü>"], "b": null}'),
        ("{{ [3, 1, 2] | sort | join(',') }}{{ 'a,b'.split(',') | last }}{{ 'abc'[1:] }}{{ [1, 2] | sum }}",
         "1,2,3bbc3"),
        ("{{ ['a', 'b'] | map('upper') | list }}{{ [{'x': 1}] | map(attribute='x') | first }}", "['A', 'B']1"),
        ("{{ 1 in [1] and 'b' in 'abc' and 'k' in {'k': 1} and 1 < 2 <= 3 and (1, 2) == (1, 2) }}{{ no }}", "True"),
        ("{{ 1 is in [1, 2] }}{{ 'a' is eq 'a' }}"
         "{{ [1, 2, 3] | select('gt', 1) | list }}{{ 7 // 2 - 1 }}{{ 1 is eq 1 }}",
         "TrueTrue[2, 3]2True"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% else %}none{% endfor %}"
         "{% for x in [] %}{% else %}e{% endfor %}", "a1e"),
        ("{% macro f(x, y='d') %}{{ x ~ y }}{{ caller() if caller else '' }}{% endmacro %}{{ f(1) }}"
         "{% call f(2) %}c{% endcall %}", "1d2dc"),
        ("{% filter upper %}abc{% endfilter %}{{ 'x' if false }}{{ none }}{{ 1.5 }}{{ true }}", "ABCNone1.5True"),
        ("{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}{{ loop(x) }}{% else %}{{ x }}{% endif %}"
         "{% endfor %}", "123"),
    ],
)  # fmt: skip
def test_templates_do_what_jinja_says(source: str, expected: Any) -> None:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    ours = ChatTemplate({"default": source}, {}).render(MESSAGES)
    assert ours == expected == _compile_jinja_template(source).render(messages=MESSAGES)
