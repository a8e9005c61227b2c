#!/usr/bin/env python3
"""Makes tests/model/template/*.json: chat templates in the style of each family, conversations, and what Jinja2
makes of them as the transformers package sets it up. template_test.c replays them.

    pip install jinja2 transformers
    python3 tests/model/make_template_fixtures.py

An error that the template raises itself is kept with its words; any other only as the fact that there is one.
"""
import datetime
import json
import pathlib

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = pathlib.Path(__file__).resolve().parent / "template"
NOW = datetime.datetime(2024, 7, 26, 13, 5, 9)

FAMILIES = {
    # name: (bos, eos, template)
    "llama2": ("<s>", "</s>", """{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set turns = messages %}{% set system = false %}{% endif %}
{%- for m in turns %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles have to take turns: user, assistant, user, ...') }}{% endif %}
{%- if loop.index0 == 0 and system != false %}{% set text = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}{% else %}{% set text = m['content'] %}{% endif %}
{%- if m['role'] == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}"""),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", """{% set all = messages %}{% for m in all %}{% set turn = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set turn = bos_token + turn %}{% endif %}{{ turn }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""),
    "llama3.2": ("<|begin_of_text|>", "<|eot_id|>", """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "01 Jan 2020" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system's words come out of the list, so that they stand where we want them -#}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Knowledge ends: December 2023\\n" }}
{{- "Today: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One call at a time") }}
        {%- endif %}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""),
    "mistral": ("<s>", "</s>", """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("behind the system's words, user and assistant take turns") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant are known; got " + message["role"] + "!") }}
    {%- endif %}
{%- endfor %}
"""),
    "qwen2": (None, "<|im_end|>", """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe of help.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""),
    "qwen3": (None, "<|im_end|>", """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{ tool | tojson }}{%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""),
    "gemma2": ("<bos>", "<eos>", """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('There is no system role') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles have to take turns') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""),
    "gemma3": ("<bos>", "<eos>", """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles have to take turns") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("No such content") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""),
    "phi3": ("<s>", "<|endoftext|>", """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""),
    "chatml": ("<s>", "<|im_end|>", """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""),
    "zephyr": ("<s>", "</s>", """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""),
    "deepseek": ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, system_prompt='', is_first_sp=true) %}{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<\uff5cUser\uff5c>' + message['content'] }}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<\uff5cAssistant\uff5c>' + content + '<\uff5cend\u2581of\u2581sentence\uff5c>' }}{%- endif %}{%- endfor -%}{% if add_generation_prompt and not ns.is_tool %}{{ '<\uff5cAssistant\uff5c><think>\\n' }}{% endif %}"""),
    "deepseek2": ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""),
    "smollm2": ("<|im_start|>", "<|im_end|>", """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nSmall, and of help<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""),
    "smollm3": (None, "<|im_end|>", """{# the defaults #}
{%- if enable_thinking is not defined -%}
{%- set enable_thinking = true -%}
{%- endif -%}
{%- set reasoning_mode = "/think" if enable_thinking else "/no_think" -%}
{%- if messages[0].role == "system" -%}
  {%- set system_message = messages[0].content -%}
  {%- if "/no_think" in system_message -%}
    {%- set reasoning_mode = "/no_think" -%}
  {%- elif "/think" in system_message -%}
    {%- set reasoning_mode = "/think" -%}
  {%- endif -%}
  {%- set custom_instructions = system_message.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "<|im_start|>system\\n" -}}
{%- if "/system_override" in system_message -%}
  {{- custom_instructions.replace("/system_override", "").rstrip() -}}
{%- else -%}
  {{- "## Facts\\n\\n" -}}
  {%- set today = strftime_now("%d %B %Y") -%}
  {{- "Today: " ~ today ~ "\\n" -}}
  {{- "Mode: " + reasoning_mode + "\\n\\n" -}}
  {%- if custom_instructions -%}
    {{- custom_instructions + "\\n\\n" -}}
  {%- endif -%}
{%- endif -%}
{{- "<|im_end|>\\n" -}}
{# the turns #}
{%- for message in messages -%}
  {%- set content = message.content if message.content is string else "" -%}
  {%- if message.role == "user" -%}
    {{ "<|im_start|>" + message.role + "\\n" + content + "<|im_end|>\\n" }}
  {%- elif message.role == "assistant" -%}
    {% generation %}
    {%- if reasoning_mode == "/think" -%}
      {{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
    {%- else -%}
      {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}
    {%- endif -%}
    {% endgeneration %}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {%- if reasoning_mode == "/think" -%}
    {{ "<|im_start|>assistant\\n" }}
  {%- else -%}
    {{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" }}
  {%- endif -%}
{%- endif -%}
"""),
    "tinyllama": ("<s>", "</s>", """{%- set roles = {'user': '<|user|>', 'system': '<|system|>', 'assistant': '<|assistant|>'} -%}
{%- for message in messages -%}
{{ roles[message.role] + '\\n' + message.content + eos_token + '\\n' if message.role in roles else raise_exception('unknown role') }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ roles.assistant + '\\n' }}{%- endif -%}"""),
    "granite": ("<|end_of_text|>", "<|end_of_text|>", """{%- macro turn(role, text, ends=true) -%}
<|start_of_role|>{{ role }}<|end_of_role|>{{ text }}{% if ends %}<|end_of_text|>
{% endif %}
{%- endmacro -%}
{%- set found = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | list -%}
{%- if found | length == 0 -%}
{{ turn('system', 'Knowledge until April 2024. ' ~ strftime_now('%B %d, %Y') ~ '.') }}
{%- endif -%}
{%- for m in messages -%}
{{ turn(m.role, m.content) }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ turn('assistant', '', ends=false) }}{% endif -%}"""),
    "command-r": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% elif false == true %}{% set loop_messages = messages %}{% set system_message = 'You are nobody.' %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% if system_message != false %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles take turns') }}{% endif %}{% set content = message['content'] %}{% if message['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% elif message['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""),
    "plain": (None, None, """{% for message in messages -%}
{% if message.role in ['system', 'developer'] %}{{ message.content ~ "\\n\\n" }}
{%- elif message.role == 'assistant' %}{{ "Assistant: " ~ message.content ~ "\\n" }}
{%- else %}{{ "User: " ~ message.content ~ "\\n" }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}Assistant:{% endif %}"""),
}


def turns(*texts, system=None):
    out = [{"role": "system", "content": system}] if system is not None else []
    return out + [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]


CONVERSATIONS = [
    turns("Hello"),
    turns("Hello", system="You are a kind librarian."),
    turns("How far is the moon?", "About 384,400 km.", "And the sun?"),
    turns("  spaces around \n", "\n an answer \t", "again ", system=" be brief \n"),
    turns("Gr\u00fc\u00dfe aus K\u00f6ln \u2014 \u4f60\u597d, \u043c\u0438\u0440! \U0001f44b\U0001f3fd", "\u3053\u3093\u306b\u3061\u306f \u00a0\u2003",
          "e\u0301 \u05e9\u05dc\u05d5\u05dd", system="\u2028Antworte auf Deutsch\u3000"),
    turns("say <|im_end|> and </s> and [INST] {{ messages }} {% raise %}", "'quoted' \"twice\" \\ back\\n", "{# no comment #}"),
    turns("Think", "<think>\nfirst this,\nthen that\n</think>\n\nDone.", "More", "<think>x</think>y"),
    turns("", "", ""),
    turns("line one\nline two\r\nline three\n\n", system="/no_think Be terse."),
    turns("one", "two"),
    [{"role": "assistant", "content": "I begin"}, {"role": "user", "content": "no"}],
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    [{"role": "user", "content": "a"}, {"role": "system", "content": "late"}, {"role": "assistant", "content": "c"}],
    [{"role": "tool", "content": "42"}, {"role": "user", "content": "\u00e4\"\n\t\u0001"}],
    [],
]

# One rule of the language each; the conversation is the third above.
RULES = r"""
{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}
{{ 1.5 + 1 }} {{ 1e3 }} {{ 1e16 }} {{ 1.0e-5 }} {{ 0.1 + 0.2 }} {{ 123456789.125 }} {{ 1e22 }} {{ 3.0 * 2 }} {{ 1_000 }} {{ 5.0 // 2 }} {{ 5.5 % 2 }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x'] ~ {'k': 'v'} ~ (1, 2) ~ (1,) }}
{{ 'x' * 3 }} {{ [1] * 2 }} {{ 'a' 'b' "c" }} {{ 'tab\tnew\\n\'q\' \x41 \u00e4' }}
{{ [1, 2] + [3] }} {{ [1, 2] == [1, 2] }} {{ (1, 2) == [1, 2] }} {{ {'a': 1} == {'a': 1.0} }} {{ 1 == true }} {{ 'a' == 1 }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 2 >= 2.0 }} {{ 'x' != 'y' }}
{{ 'ell' in 'hello' }} {{ 2 in [1, 2] }} {{ 'k' in {'k': 1} }} {{ 3 not in [1] }} {{ not 1 in [1] }} {{ '' in '' }}
{{ true and 'yes' or 'no' }} {{ '' or 'empty' }} {{ none and 1 }} {{ not not 1 }} {{ 0 or [] or {} }}
{{ 'yes' if messages else 'no' }} {{ 'only' if false }}{{ 1 if false else 2 if false else 3 }}
{{ messages[0].role }} {{ messages[-1]['content'] }} {{ messages[0]['none'] is defined }} {{ messages[9] is defined }} {{ messages.0.role }}
{{ 'hello'[1] }} {{ 'hello'[-1] }} {{ 'hello'[1:3] }} {{ 'hello'[::-1] }} {{ 'häé€'[1:] }} {{ [1, 2, 3, 4][1::2] }} {{ [1, 2, 3][-2:] }} {{ [1, 2, 3][:-1] }} {{ [1,2,3][5:] }} {{ 'abc'[-9:9:1] }} {{ [1,2,3,4,5][4:1:-2] }}
{{ nothing }}|{{ nothing is defined }}|{{ nothing is undefined }}|{{ nothing or 'd' }}|{{ nothing | default('d') }}|{{ '' | default('d', true) }}|{{ '' | d('e') }}
{{ nothing == other_nothing }} {{ nothing | length }} {{ nothing | list }} {% for x in nothing %}x{% else %}none{% endfor %}
{% for i in range(5) %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}
{% for i in range(3) %}{% for j in range(2) %}{{ loop.depth }}{{ i }}{{ j }} {% endfor %}{% endfor %}
{% for i in range(10) if i % 2 %}{{ loop.index }}:{{ i }}/{{ loop.length }} {% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a }}-{{ b }} {% endfor %}{% for k, v in {'x': 1, 'y': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for k in {'p': 1} %}{{ k }}{% endfor %}{% for c in 'héo' %}{{ c }}.{% endfor %}
{% for i in [1, 2, 3] %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }}{{ loop.cycle('a', 'b') }} {% endfor %}{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}
{% set ns = namespace(n=0, s='') %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }} {{ ns.s }} {{ ns.missing is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t = 1, 2 %}{{ t }}{% set block %}in {{ a }} block{% endset %}[{{ block }}]{% set loud | upper %}quiet{% endset %}{{ loud }}
{% macro m(a, b=2, c='z') %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='y') }}{{ m() }}{{ m(b=5, a=4) }}
{% macro fact(n) %}{% if n < 2 %}1{% else %}{{ n * (fact(n - 1) | int) }}{% endif %}{% endmacro %}{{ fact(10) }}
{% set outer = 'o' %}{% macro sees() %}{{ outer }}{% endmacro %}{{ sees() }}{% set outer = 'p' %}{{ sees() }}
{% filter upper %}shout {{ 'it' }}{% endfilter %}{% filter replace('a', 'b') | trim %}  banana {% endfilter %}
{% raw %}{{ not }} {% this %}{% endraw %}{#- gone -#}   {# gone #}
   {% if true %}   
  indented
   {% endif %}  
{%- if true -%}   tight   {%- endif -%}  
  {%+ if true %}kept{% endif +%}
{{- ' both ' -}}
{{ '  trim me ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ ' a '.strip() }}|{{ 'xa'.lstrip('x') }}|{{ 'ax'.rstrip('x') }}|{{ ' é '.rstrip() }}|{{ 'ab'.strip('') }}
{{ 'hELLO wORLD-foo (bar)' | title }}|{{ 'hELLO wORLD' | capitalize }}|{{ 'aé' | upper }}|{{ 'ÀB' | lower }}|{{ "they're bill's".title() }}|{{ 'abc'.upper() }}{{ 'ABC'.lower() }}{{ 'hello'.capitalize() }}
{{ [1, 2, 3] | length }} {{ 'häß' | length }} {{ {'a': 1} | count }} {{ [3, 1, 2] | first }} {{ [3, 1, 2] | last }} {{ [] | first }} {{ 'xyz' | first }}{{ 'xyz' | last }}
{{ [1, 'b', none] | join(', ') }} {{ 'abc' | join('-') }} {{ messages | map(attribute='role') | join('/') }} {{ messages | join('+', attribute='role') }}
{{ 'a-b-c' | replace('-', '+') }} {{ 'a-b-c' | replace('-', '+', 1) }} {{ 'a-b-c'.replace('-', '') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'ab'.replace('', '.') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | selectattr('role', '==', 'user') | map(attribute='content') | list }} {{ messages | rejectattr('role', 'eq', 'user') | list | length }} {{ messages | selectattr('nope', 'defined') | list }} {{ messages | selectattr('content') | list | count }}
{{ [1, 2, 3, 4] | select('odd') | list }} {{ [1, 2, 3, 4] | reject('divisibleby', 2) | list }} {{ [0, 1, ''] | select | list }} {{ ['a', 'B'] | map('upper') | list }} {{ [{'a': 1}, {}] | map(attribute='a', default=7) | list }} {{ ['a', 'b'] | map('replace', 'a', 'z') | list }}
{{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A'] | sort(case_sensitive=true) }} {{ [3, 1, 2] | sort(reverse=true) }} {{ messages | sort(attribute='content') | map(attribute='role') | list }} {{ [1, 1, 2] | unique | list }} {{ ['a', 'A', 'b'] | unique | list }}
{{ [1, 2, 3] | sum }} {{ [3, 1] | min }} {{ [3, 1] | max }} {{ ['b', 'A'] | min }} {{ [1, 2] | reverse | list }} {{ 'abc' | reverse }} {{ {'b': 1, 'a': 2} | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ [{'n': 2}, {'n': 3}] | sum(attribute='n') }} {{ -3 | abs }}
{{ '42' | int }} {{ ' 7 ' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ 3.9 | int }} {{ -3.9 | int }} {{ '3.7' | int }} {{ '2.5' | float }} {{ 2 | float }} {{ 5 | string }} {{ [1] | string }} {{ true | int }} {{ 'a' | float(1.5) }}
{{ {'a': [1, 2.5, none, true], 'b': {'c': "q\"uo\n\té\u0001<>&'"}} | tojson }} {{ [] | tojson }} {{ {} | tojson }} {{ 'x' | tojson }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ {'a': [1, {'b': []}], 'c': {}} | tojson(indent=2) }} {{ [1, 2] | tojson(separators=(',', ':')) }} {{ {1: 2} | tojson }} {{ messages | tojson }}
{{ messages }} {{ messages[0].items() | list }} {{ messages[0].keys() | list }} {{ messages[0].values() | list }} {{ messages[0].get('role') }} {{ messages[0].get('x') }} {{ messages[0].get('x', 'y') }} {{ messages[0] | items | list }}
{{ 'a b  c'.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a b c d'.split(' ', 2) }} {{ 'a b c d'.split(maxsplit=1) }} {{ ' a b '.split(none, 1) }} {{ 'a b c'.rsplit(' ', 1) }} {{ 'a\nb\r\nc\n'.splitlines() }} {{ ''.split() }} {{ ''.split(',') }} {{ 'abc'.rsplit(',') }}
{{ 'hello'.startswith('he') }} {{ 'hello'.endswith('lo') }} {{ 'hello'.startswith(('x', 'h')) }} {{ 'hello'.find('l') }} {{ 'hello'.rfind('l') }} {{ 'hello'.find('z') }} {{ 'häl'.find('l') }} {{ 'banana'.count('an') }} {{ '12'.isdigit() }} {{ 'a1'.isdigit() }} {{ ', '.join(['a', 'b']) }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.txt'.removesuffix('.txt') }} {{ ' '.isspace() }}
{{ 1 is number }} {{ 1 is integer }} {{ 1.0 is float }} {{ true is integer }} {{ true is boolean }} {{ 'a' is string }} {{ [] is iterable }} {{ {} is mapping }} {{ [] is mapping }} {{ 'a' is iterable }} {{ [] is sequence }} {{ {} is sequence }} {{ 1 is iterable }} {{ none is none }} {{ 1 is not none }} {{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ 2 is in [1, 2] }} {{ 2 is eq 2 }} {{ 2 is gt 1 }} {{ 1 is lessthan 2 }} {{ none is sameas none }} {{ 'a' is lower }} {{ 'A' is upper }} {{ 'a1' is lower }} {{ '1' is lower }} {{ raise_exception is callable }} {{ messages[0].items is callable }}
{{ "a'b" ~ ["a'b", 'a"b', "a'\"b", 'tab\t', 'é', '\u200b', '\\'] }}
{{ 'first\nsecond\n\nthird' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('>>') }}
{{ '<{}|{}>'.format(1, 'x') }} {{ '{1}{0}{{}}'.format('a', 'b') }} {{ '{name}!'.format(name=[1]) }} {{ ''.format() }} {{ none | selectattr('a') | list }} {{ none | map('upper') | list }} {{ '' | reject | list }}
{% if false %}{{ 1 | nofilter }}{{ 1 is notest }}{% endif %}ok {{ 'a' if true else (1 | nofilter) }}
{{ range(3) | list }} {{ range(2, 8, 3) | list }} {{ range(5, 0, -2) | list }} {{ dict(a=1, b='x') }} {{ dict({'a': 1}, c=2) }}
{{ strftime_now('%Y-%m-%d %H:%M') }} {{ strftime_now('%A, %d %B %Y') }}
{{ {'items': 5}.items is callable }} {{ {'items': 5}['items'] }} {{ {'a': {'b': 3}}.a.b }} {{ {'a b': 1}['a b'] }} {{ {1: 'one'}[1] }} {{ {none: 1}[none] }}
{% if 1 %}a{% elif 2 %}b{% else %}c{% endif %}{% if 0 %}a{% elif 2 %}b{% else %}c{% endif %}{% if '' %}a{% elif none %}b{% else %}c{% endif %}
{% generation %}told {{ 1 }}{% endgeneration %}{{ bos_token is defined }}{{ tools is none }}{{ documents is none }}{{ loop is defined }}
{{ 'a' if messages | length > 2 and messages[0].role == 'user' else 'b' }} {{ messages | length - 1 }} {{ (1, 2, 3) | last }} {{ [1, [2, [3]]][1][1][0] }}
{{ 'x' in nothing }} {{ 1 if nothing else 2 }} {{ (nothing ~ 'a') }} {{ nothing is none }} {{ nothing is string }} {{ nothing is iterable }}
{% for m in messages[1:] %}{{ m.content[:5] }}{% if not loop.last %}, {% endif %}{% endfor %}{% for m in messages | reverse %}{{ m.role[0] }}{% endfor %}
{{ 5[1:] }}{{ none.x is defined }}{{ 5['a'] is defined }}{{ none[0] }}
{% set c = messages[0].content %}{{ c | upper | replace('MOON', 'sun') | trim | length }}{{ c.split(' ')[-1][:-1] | capitalize }}
{%- set x -%}  a  {%- endset -%}{{ x }}{% set y %}

b
{% endset %}[{{ y }}]
"""

# Every one fails in both.
ERRORS = r"""
{{ nothing.attribute }}
{{ nothing['x'] }}
{{ nothing + 1 }}
{{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ messages.append(1) }}
{{ messages[0].update({'a': 1}) }}
{{ nothing() }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ 'a' < 1 }}
{{ 1 in 2 }}
{{ 1 in 'abc' }}
{{ none | length }}
{% for x in 5 %}{% endfor %}
{% set messages.x = 1 %}
{{ raise_exception('with words: ' + messages[0].role) }}
{{ raise_exception("Ein Fehler: \u00e4") }}
{% if %}{% endif %}
{% if true %}
{% for x in y %}{% endif %}
{% endif %}
{{ 1 + }}
{{ (1 }}
{{ 'open }}
{{ a b }}
{% unknown %}
{{ 1 | nofilter }}
{{ 1 is notest }}
{# open
{% raw %} open
{{ [1, 2 }}
{{ {'a' 1} }}
{% set = 1 %}
{% macro %}{% endmacro %}
{% for in x %}{% endfor %}
{{ 'a'.nomethod() }}
{{ {'a': 1}.a() }}
{% set ns = namespace() %}{{ ns.x.y }}
{% set a, b = [1] %}
{{ x is }}
{{ messages[0] < messages[1] }}
{{ [1][::0] }}
{{ ','.join([1]) }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(z=2) }}
{{ '{}'.format() }}
{{ '{0'.format(1) }}
{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}
"""


def outcome(template, messages, generate, bos, eos):
    tokens = {k: v for k, v in (("bos_token", bos), ("eos_token", eos)) if v}
    try:
        compiled = _compile_jinja_template(template)
        compiled.globals["strftime_now"] = NOW.strftime
        return {"text": compiled.render(messages=messages, tools=None, documents=None,
                                        add_generation_prompt=generate, **tokens)}
    except jinja2.exceptions.TemplateError as error:
        own = type(error) is jinja2.exceptions.TemplateError
        return {"raises": error.message} if own else {"fails": True}
    except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError, AttributeError):
        return {"fails": True}


def family(name):
    bos, eos, template = FAMILIES[name]
    cases = []
    for messages in CONVERSATIONS:
        for generate in (True, False):
            cases.append({"messages": messages, "generate": generate, **outcome(template, messages, generate, bos, eos)})
    return {"bos": bos, "eos": eos, "template": template, "cases": cases}


def rules():
    messages = CONVERSATIONS[2]
    groups, errors = [], []
    whole = RULES.strip("\n").split("\n")
    # lines whose blocks span several stay together
    spans, at = [], 0
    while at < len(whole):
        line = whole[at]
        n = 1
        if line.startswith("   {% if true %}   "):
            n = 3
        elif line.startswith("{%- set x -%}"):
            n = 4
        spans.append("\n".join(whole[at:at + n]))
        at += n
    for text in spans:
        got = outcome(text, messages, True, "<s>", None)
        assert "text" in got, (text, got)
        groups.append({"template": text, **got})
    everything = RULES.replace("\n", "\r\n", 7)
    groups.append({"template": everything, **outcome(everything, messages, True, "<s>", None)})
    for text in ERRORS.strip("\n").split("\n"):
        got = outcome(text, messages, True, "<s>", None)
        assert "text" not in got, (text, got)
        errors.append({"template": text, **got})
    return {"bos": "<s>", "eos": None, "messages": messages, "cases": groups + errors}


def write(name, content):
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (OUT / f"{name}.json").write_text(text + "\n", encoding="utf-8")


OUT.mkdir(exist_ok=True)
for name in FAMILIES:
    write(name, family(name))
write("rules", rules())
print(f"{len(FAMILIES)} families, {len(CONVERSATIONS) * 2} cases each; jinja2 {jinja2.__version__}, "
      f"transformers {transformers.__version__}")
