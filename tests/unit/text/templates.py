"""Chat templates in the style of published ones, short."""

from __future__ import annotations

TURNS = (
    "{{ bos_token }}{% for message in messages %}{{ '<|turn|>' + message['role'] + '\n' + message['content'] "
    "+ '<|end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
INST = """{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim + '\n\n' %}{%- set rest = messages[1:] %}
{%- else %}
    {%- set system = '' %}{%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate: user, assistant, user ...') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message.content | trim + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message.content | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}
"""
HEADERS = """{{- bos_token }}
{%- if not date is defined %}{%- set date = '1 Jan 2024' %}{%- endif %}
{%- set ns = namespace(first=true) %}
{%- if tools is not none and tools %}
    {{- '<|turn|>tools\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\n' }}{%- endfor %}
    {{- '<|end|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {{- '<|turn|>' ~ message.role ~ '\n' ~ message.tool_calls[0].function.arguments | tojson ~ '<|end|>' }}
    {%- else %}
        {{- '<|turn|>' + message['role'] + '\n\n' + (message['content'] | trim) + '<|end|>' }}
        {%- if ns.first %}{{- date }}{%- set ns.first = false %}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|turn|>assistant\n\n' }}{%- endif %}
"""
PARTS = """{{ bos_token }}{% for message in messages %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<|turn|>' + role + '\n' }}
{% if message['content'] is string %}{{ message['content'] | trim }}{% elif message['content'] is iterable %}
{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}
{% generation %}{{ '<|end|>\n' }}{% endgeneration %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|turn|>model\n' }}{% endif %}"""
THINKS = """{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {%- if message.role == 'user' and content.startswith('<tool>') %}{%- continue %}{%- endif %}
    {{- '<|turn|>' + message.role + '\n' + content + '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|turn|>assistant\n<think>\n' }}{%- endif %}"""
TEMPLATES = {"turns": TURNS, "inst": INST, "headers": HEADERS, "parts": PARTS, "thinks": THINKS}
