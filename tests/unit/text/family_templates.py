"""Chat templates with what those of published families are made of, in words of our own."""

from __future__ import annotations

LLAMA_3 = """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "1 Jan 2025" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|turn|>system\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}{{- "Environment: shell\\n" }}{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Built in: " + builtin_tools | reject('equalto', 'interpreter') | join(", ") + "\\n\\n" }}
{%- endif %}
{{- "Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- system_message }}{{- "<|end|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("There is no first user message to put the tools into!") }}
    {%- endif %}
    {{- '<|turn|>user\\n\\n' -}}
    {{- 'Call {"name": the function, "parameters": a dictionary}.' }}{{- "\\n\\n" }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
    {{- first_user_message + "<|end|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|turn|>' + message['role'] + '\\n\\n'+ message['content'] | trim + '<|end|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("One tool call at once!") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {%- if builtin_tools is defined and tool_call.name in builtin_tools %}
            {{- "<|python|>" + tool_call.name + ".call(" }}
            {%- for arg_name, arg_val in tool_call.arguments | items %}
                {{- arg_name + '="' + arg_val + '"' }}{%- if not loop.last %}{{- ", " }}{%- endif %}
            {%- endfor %}{{- ")" }}
        {%- else %}
            {{- '<|turn|>assistant\\n\\n{"name": "' + tool_call.name + '", "parameters": ' }}
            {{- tool_call.arguments | tojson }}{{- "}" }}
        {%- endif %}
        {{- "<|end|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|turn|>ipython\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}{{- "<|end|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|turn|>assistant\\n\\n' }}{%- endif %}
"""
QWEN_2_5 = """{%- if tools %}
    {{- '<|turn|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- else %}{{- 'Be helpful.' }}{%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools>\\n{\\"name\\": <name>, \\"arguments\\": <json>}<|end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}{{- '<|turn|>system\\n' + messages[0]['content'] + '<|end|>\\n' }}
    {%- else %}{{- '<|turn|>system\\nBe helpful.<|end|>\\n' }}{%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or
        (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|turn|>' + message.role + '\\n' + message.content + '<|end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|turn|>' + message.role }}{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|turn|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|turn|>assistant\\n' }}{%- endif %}
"""
QWEN_3 = """{%- if messages[0].role == 'system' %}
    {{- '<|turn|>system\\n' + messages[0].content + '<|end|>\\n' }}{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and
        not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|turn|>' + message.role + '\\n' + content + '<|end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}{%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|turn|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
            {{- content.lstrip('\\n') }}
        {%- else %}{{- '<|turn|>' + message.role + '\\n' + content }}{%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' ~ tool_call.name ~ '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}
                {%- else %}{{- tool_call.arguments | tojson }}{%- endif %}{{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|turn|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|turn|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}
{%- for message in loop_messages | rejectattr("role", "equalto", "tool") | selectattr("tool_calls", "undefined") %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("Roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}{{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
                    {%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}{{- "[/TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}{{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Ids of tool calls have nine characters!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}{%- set content = message.content %}{%- endif %}
        {{- '[RESULTS] {"content": ' + content|string + ", " }}
        {%- if not message.tool_call_id is defined or message.tool_call_id|length != 9 %}
            {{- raise_exception("Ids of tool calls have nine characters!") }}
        {%- endif %}
        {{- '"call_id": "' + message.tool_call_id + '"}[/RESULTS]' }}
    {%- else %}{{- raise_exception("Only user and assistant roles are supported, not " ~ message.role) }}{%- endif %}
{%- endfor %}
"""
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<|turn|>' + role + '\n' + message['content'] | trim + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|turn|>model\n'}}{% endif %}"
)
GEMMA_3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}{%- set role = "model" -%}
    {%- else -%}{%- set role = message['role'] -%}{%- endif -%}
    {{ '<|turn|>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<image>' }}
            {%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ raise_exception("Invalid content type") }}{%- endif -%}
    {{ '<|end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<|turn|>model\n'}}{%- endif -%}
"""
PHI_4 = (
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and "
    "message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + "
    "message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + "
    "'<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}"
    "{{ eos_token }}{% endif %}"
)
DEEPSEEK = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', "
    "is_first_sp=true) %}{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}"
    "{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}"
    "{% set ns.system_prompt = ns.system_prompt + '\n\n' + message['content'] %}{%- endif %}{%- endif %}"
    "{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{% set content = "
    "message['content'] %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|turn|>' + content + "
    "'<|asks|>'}}{%- endif %}{%- if message['role'] == 'assistant' and message['tool_calls'] is defined and "
    "message['tool_calls'] is not none %}{%- set ns.is_tool = false -%}{%- set ns.is_first = false %}{%- for tool in "
    "message['tool_calls'] %}{%- if not ns.is_first %}{%- if content is none or not content %}{{'<calls>' + "
    "tool['type'] + '<sep>' + tool['function']['name'] + '\n```json\n' + tool['function']['arguments'] | tojson + "
    "'\n```'}}{%- else %}{{content + '<calls>' + tool['function']['name']}}{%- endif %}{%- set ns.is_first = true -%}"
    "{%- else %}{{'\n' + tool['function']['name'] + tool['function']['arguments'] | tojson}}{%- endif %}{%- endfor %}"
    "{{'</calls><|end|>'}}{%- endif %}{%- if message['role'] == 'assistant' and message['tool_calls'] is not defined "
    "%}{%- if ns.is_tool %}{{'</outputs>' + content + '<|end|>'}}{%- set ns.is_tool = false -%}{%- else %}{% if "
    "'</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<|asks|>' + content + "
    "'<|end|>'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if "
    "ns.is_output_first %}{{'<outputs>' + content}}{%- set ns.is_output_first = false %}{%- else %}{{'\n' + "
    "content}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'</outputs>'}}{% endif %}{% if "
    "add_generation_prompt and not ns.is_tool %}{{'<|asks|><think>\n'}}{% endif %}"
)
COMMAND_R = """{{ bos_token }}{%- macro json_to_python_type(json_spec) %}
{%- set basic_type_map = {"string": "str", "number": "float", "integer": "int", "null": "None"} %}
{%- if basic_type_map[json_spec.type] is defined %}{{- basic_type_map[json_spec.type] }}
{%- elif json_spec.type == "array" %}{{- "List[" + json_to_python_type(json_spec['items']) + "]"}}
{%- elif json_spec.type == "object" %}{{- "Dict[str, " + json_to_python_type(json_spec.additionalProperties) + ']'}}
{%- elif json_spec.type is iterable %}
    {{- "Union[" }}{%- for t in json_spec.type %}{{- json_to_python_type({"type": t}) }}
    {%- if not loop.last %}{{- "," }}{%- endif %}{%- endfor %}{{- "]" }}
{%- else %}{{- "Any" }}{%- endif %}
{%- endmacro %}
{%- macro tool_parser(tools) %}
{%- for tool in tools %}
{%- if tool.type is defined and tool.type == 'function' %}{%- set tool = tool.function %}{%- endif %}
```python
def {{ tool.name }}({% for name, fields in tool.parameters.properties.items() %}{{ name }}: {{ "Optional[" if
    name not in tool.parameters.required else "" }}{{ json_to_python_type(fields) }}{{ "]" if name not in
    tool.parameters.required else "" }}{% if not loop.last %}, {% endif %}{% endfor %}) -> List[Dict]:
    \"\"\"{{ tool.description | replace('\\n', ' ') | trim }}{% if tool.parameters.properties | length > 0 %}

    Args:
    {% for name, fields in tool.parameters.properties.items() %}
    {{ name }} ({{ json_to_python_type(fields) }}): {{ fields.description | default('no word') }}
    {% endfor %}{% endif %}\"\"\"
    pass
```
{%- endfor %}
{%- endmacro %}
{%- if messages[0]['role'] == 'system' %}{%- set loop_messages = messages[1:] %}
{%- set system_message = messages[0]['content'] %}
{%- else %}{%- set loop_messages = messages %}{%- set system_message = '## Task\\nAnswer.' %}{%- endif %}
{{- '<|turn|>' + system_message + '<|end|>' }}
{%- if tools %}{{ '\\n\\n## Tools\\n' }}{{ tool_parser(tools) }}{%- endif %}
{%- if documents %}<results>
{% for document in documents %}{{ '\\n' if not loop.first }}Document: {{ loop.index0 }}
{% for key, value in document.items() %}{{ key }}: {{ value }}
{% endfor %}{%- endfor %}</results>{%- endif %}
{%- for message in loop_messages %}
    {%- set content = message['content'] %}
    {%- if message['role'] == 'user' %}{{ '<|turn|>USER' + content.strip() + '<|end|>' }}
    {%- elif message['role'] == 'assistant' and message.tool_calls %}
        {{ '<|turn|>BOT\\nAction: ```json\\n[\\n' }}
        {%- for tool_call in message.tool_calls %}
            {{ {"tool_name": tool_call.function.name, "parameters": tool_call.function.arguments}|tojson(indent=4)
               |indent(4, true) if tool_call.type == 'function' }}{% if not loop.last %},
{% endif %}
        {%- endfor %}{{ '\\n]\\n```<|end|>' }}
    {%- elif message['role'] == 'assistant' %}{{ '<|turn|>BOT' + content.strip() + '<|end|>' }}
    {%- elif message['role'] == 'tool' %}{{ '<results>\\n' + content + '</results>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|turn|>BOT' }}{%- endif %}
"""
GRANITE = """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = "Knowledge ends in April 2024.\nToday is "
        + strftime_now('%B %d, %Y') + ".\nYou are here" %}
    {%- if tools and documents %}{%- set system_message = system_message + ", with tools and documents." %}
    {%- elif tools %}{%- set system_message = system_message + ", with tools." %}
    {%- elif thinking %}{%- set system_message = system_message + ", to think." %}
    {%- else %}{%- set system_message = system_message + "." %}{%- endif %}
    {%- if 'citations' in controls and documents %}
        {%- set system_message = system_message + '\n\nCite.' %}
    {%- endif %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '<|turn|>system<|end|>' + system_message + '</s>\n' }}
{%- if tools %}{{- '<|turn|>tools<|end|>' }}{{- tools | tojson(indent=4) }}{{- '</s>\n' }}{%- endif %}
{%- if documents %}
    {%- for document in documents %}
        {{- '<|turn|>document {"id": "' + document['doc_id'] | string + '"}<|end|>\n' }}{{- document['text'] }}
    {%- endfor %}
{%- endif %}
{%- for message in loop_messages %}
    {{- '<|turn|>' + message['role'] + '<|end|>' }}
    {%- if message.tool_calls %}{{- message.tool_calls | map(attribute='function') | list | tojson }}
    {%- else %}{{- message['content'] }}{%- endif %}{{- '</s>\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|turn|>assistant' }}
        {%- if controls %}{{- ' ' + controls | tojson()}}{%- endif %}{{- '<|end|>' }}
    {%- endif %}
{%- endfor %}"""
CHATML = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|turn|>system\nBe helpful.<|end|>\n' }}{% endif %}{{'<|turn|>' + message['role'] + '\n' + "
    "(message['content'] or '') + '<|end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
SMOLLM_3 = """{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- set reasoning_mode = "/think" if enable_thinking else "/no_think" -%}
{%- if messages[0].role == "system" -%}
  {%- set system_message = messages[0].content -%}
  {%- if "/no_think" in system_message -%}{%- set reasoning_mode = "/no_think" -%}
  {%- elif "/think" in system_message -%}{%- set reasoning_mode = "/think" -%}{%- endif -%}
  {%- set custom = system_message.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "<|turn|>system\\n" -}}{{- "Reasoning Mode: " + reasoning_mode + "\\n\\n" -}}
{%- if custom -%}{{- custom + "\\n\\n" -}}{%- else -%}{{- "You are you.\\n\\n" -}}{%- endif -%}
{%- if xml_tools or python_tools or tools -%}
  {%- set ns = namespace(xml="<tools>") -%}
  {%- for tool in (xml_tools or tools or [])[:] -%}
    {%- set ns.xml = ns.xml ~ (tool | string) ~ "\\n" -%}
  {%- endfor -%}
  {%- set xml_tool_string = ns.xml + "</tools>" -%}{{- xml_tool_string -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role == "user" -%}{{ "<|turn|>" + message.role + "\\n" + message.content + "<|end|>\\n" }}
  {%- elif message.role == "assistant" -%}
    {% generation %}
    {%- if reasoning_mode == "/think" -%}
      {{ "<|turn|>assistant\\n" + (message.content or '').lstrip("\\n") + "<|end|>\\n" }}
    {%- else -%}
      {{ "<|turn|>assistant\\n" + "<think>\\n\\n</think>\\n" + (message.content or '').lstrip("\\n") + "<|end|>\\n" }}
    {%- endif -%}
    {% endgeneration %}
  {%- elif message.role == "tool" -%}{{ "<|turn|>user\\n" + message.content | string + "<|end|>\\n" }}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {%- if reasoning_mode == "/think" -%}{{ "<|turn|>assistant\\n" }}
  {%- else -%}{{ "<|turn|>assistant\\n" + "<think>\\n\\n</think>\\n" }}{%- endif -%}
{%- endif -%}
"""
GPT_OSS = """{%- macro render_type(param_spec, required_params, is_nullable=false) -%}
    {%- if param_spec.type == "array" -%}
        {%- if param_spec['items'] -%}
            {%- if param_spec['items']['type'] == "string" -%}{{- "string[]" }}
            {%- else -%}{%- set inner = render_type(param_spec['items'], required_params) -%}
                {%- if inner | length > 50 -%}{{- "any[]" }}{%- else -%}{{- inner + "[]" }}{%- endif -%}
            {%- endif -%}
            {%- if param_spec.nullable -%}{{- " | null" }}{%- endif -%}
        {%- else -%}{{- "any[]" }}{%- endif -%}
    {%- elif param_spec.type is defined and param_spec.type is iterable and param_spec.type is not string
            and param_spec.type is not mapping and param_spec.type[0] is defined -%}
        {%- if param_spec.type | length > 1 -%}{{- param_spec.type | join(" | ") }}
        {%- else -%}{{- param_spec.type[0] }}{%- endif -%}
    {%- elif param_spec.oneOf -%}
        {%- for variant in param_spec.oneOf -%}
            {{- render_type(variant, required_params) -}}
            {%- if variant.default is defined -%}{{- " // default: " + variant.default | tojson -}}{%- endif -%}
            {%- if not loop.last -%}{{- " | " -}}{%- endif -%}
        {%- endfor -%}
    {%- elif param_spec.type == "string" -%}
        {%- if param_spec.enum -%}{{- '"' + param_spec.enum | join('" | "') + '"' -}}
        {%- else -%}{{- "string" }}{%- if param_spec.nullable %}{{- " | null" }}{%- endif -%}{%- endif -%}
    {%- elif param_spec.type == "object" -%}
        {%- if param_spec.properties -%}
            {{- "{\\n" }}
            {%- for prop_name, prop_spec in param_spec.properties.items() -%}
                {{- prop_name -}}{%- if prop_name not in (param_spec.required or []) -%}{{- "?" }}{%- endif -%}
                {{- ": " }}{{ render_type(prop_spec, param_spec.required or []) }}
                {%- if not loop.last -%}{{-", " }}{%- endif -%}
            {%- endfor -%}{{- "}" }}
        {%- else -%}{{- "object" }}{%- endif -%}
    {%- elif param_spec.type in ["number", "integer"] -%}{{- "number" }}
    {%- else -%}{{- "any" }}{%- endif -%}
{%- endmacro -%}
{%- macro build_system(builtin=none, effort="medium") -%}
    {{- "Knowledge cutoff: 2024-06\\nCurrent date: " + strftime_now("%Y-%m-%d") + "\\nReasoning: " + effort + "\\n" }}
    {%- if builtin %}{%- if "browser" in builtin %}{{- "browse\\n" }}{%- endif %}{%- endif %}
{%- endmacro -%}
{%- if reasoning_effort is not defined %}{%- set reasoning_effort = "medium" %}{%- endif %}
{{- "<|turn|>system" }}{{- build_system(builtin_tools, effort=reasoning_effort) }}{{- "<|end|>" }}
{%- if tools -%}
    {{- "namespace functions {\\n\\n" }}
    {%- for tool in tools %}
        {%- set tool = tool.function %}
        {{- "// " + tool.description + "\\ntype "+ tool.name + " = " }}
        {%- if tool.parameters and tool.parameters.properties %}
            {{- "(_: {\\n" }}
            {%- for param_name, param_spec in tool.parameters.properties.items() %}
                {%- if param_spec.description %}{{- "// " + param_spec.description + "\\n" }}{%- endif %}
                {{- param_name }}
                {%- if param_name not in (tool.parameters.required or []) -%}{{- "?" }}{%- endif -%}
                {{- ": " }}{{- render_type(param_spec, tool.parameters.required or []) }}
                {%- if param_spec.default is defined -%}{{- ", // default: " + param_spec.default|string }}{%- endif -%}
                {{- ",\\n" if not loop.last else "\\n" }}
            {%- endfor %}{{- "}) => any;\\n\\n" }}
        {%- else -%}{{- "() => any;\\n\\n" }}{%- endif -%}
    {%- endfor %}
{%- endif -%}
{%- set last_tool_call = namespace(name=none) %}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- if "tool_calls" in message %}
            {%- set future = namespace(found=false) %}
            {%- for later in messages[loop.index:] %}
                {%- if later.role == 'assistant' and "tool_calls" not in later %}
                    {%- set future.found = true %}
                {%- endif %}
            {%- endfor %}
            {%- set tool_call = message.tool_calls[0] %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {%- if message.content and message.thinking %}{{- raise_exception("Pass one only!") }}
            {%- elif message.thinking and not future.found %}{{- "<|turn|>analysis" + message.thinking }}{%- endif %}
            {{- "to=functions." + tool_call.name }}
            {{- (tool_call.content_type if tool_call.content_type is defined else "json") }}
            {{- tool_call.arguments|tojson }}{%- set last_tool_call.name = tool_call.name %}
        {%- elif loop.last and not add_generation_prompt %}
            {%- if "thinking" in message %}{{- "<|turn|>" + message.thinking }}{%- endif %}{{- message.content }}
        {%- else %}{{- "<|turn|>final" + message.content + "<|end|>" }}{%- set last_tool_call.name = none %}{%- endif %}
    {%- elif message.role == 'tool' -%}
        {%- if last_tool_call.name is none %}{{- raise_exception("A result without a call!") }}{%- endif %}
        {{- "functions." + last_tool_call.name + ": " + message.content|tojson }}
    {%- elif message.role == 'user' -%}{{- "<|turn|>user" + message.content + "<|end|>" }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|turn|>assistant{%- endif -%}
"""
FAMILY_TEMPLATES = {
    "llama 3": LLAMA_3, "qwen 2.5": QWEN_2_5, "qwen 3": QWEN_3, "mistral": MISTRAL, "gemma 2": GEMMA_2,
    "gemma 3": GEMMA_3, "phi 4": PHI_4, "deepseek": DEEPSEEK, "command r": COMMAND_R, "granite": GRANITE,
    "chatml": CHATML, "smollm 3": SMOLLM_3, "gpt-oss": GPT_OSS,
}  # fmt: skip
