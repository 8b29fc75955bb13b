"""Chat templates of real models, with the marks of a created student's tokenizer."""

from __future__ import annotations

from typing import Any

from tapir_ray.train.chat import resolve_template

THINKING = """
{%- set ns = namespace(last=0) %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {{- '<|' + message['role'] + '|>' }}
    {%- set text = message['content'].split('</think>')[-1].lstrip() %}
    {%- if message['role'] == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n\n</think>\n\n' + text }}
    {%- elif message['role'] == 'assistant' %}{{ text }}
    {%- else %}{{ message['content'] }}
    {%- endif %}
    {{- eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|><think>\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}
{%- endif %}
"""
"""As in reasoning models: a think tag opens before an answer, closes without thinking, is cut from earlier turns."""

NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + resolve_template("plain")
)
"""As in Gemma: no system turn."""

USER_LAST = (
    "{% if add_generation_prompt and messages[-1].role != 'user' %}{{ raise_exception('a user turn is last') }}"
    "{% endif %}" + resolve_template("plain")
)
"""As in Mistral: an answer must follow a question."""

ONE = [{"role": "user", "content": "What is 3 + 4?"}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *ONE]
SEVERAL = [*ONE, {"role": "assistant", "content": "It is 7."}, {"role": "user", "content": "And 4 + 4?\nSay why."}]

PROMPTS: dict[str, tuple[str, list[dict[str, str]], dict[str, Any]]] = {
    "system": (resolve_template("plain"), SYSTEM, {}),
    "system in another template": (resolve_template("chatml"), SYSTEM, {}),
    "no system in a template that has one": (resolve_template("vicuna"), ONE, {}),
    "no system role": (NO_SYSTEM, ONE, {}),
    "several turns": (resolve_template("llama2"), SEVERAL, {}),
    "an opened think tag": (THINKING, SYSTEM, {}),
    "thinking off": (THINKING, SYSTEM, {"enable_thinking": False}),
    "several turns and thinking off": (THINKING, SEVERAL, {"enable_thinking": False}),
}
"""By subject: a template, messages, and arguments of the template."""
