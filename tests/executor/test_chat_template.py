"""Chat templates: the same text as transformers, and an end for the hostile ones."""

import re
import time

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tpplan.executor import chat_template
from tpplan.executor.chat_template import render

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Grüße <b>\"you\"</b> & 'me' 🙂\n{{ 7*7 }}"},
    {"role": "assistant", "content": "  ok "},
    {"role": "user", "content": ""},
]
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "chatml": "{% for m in messages %}\n    "
    "{{- '<|im_start|>' + m['role'] + '\\n' + m.content + '<|im_end|>' + '\\n' }}\n"
    "{% endfor %}\n{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "llama2": "{{ bos_token }}{% for m in messages %}{% if loop.index0 % 2 %}[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m['content'] | tojson }}{{ eos_token }}{% endif %}{% endfor %}",
    "tools": "{% if tools is not none %}tools{% endif %}{% if documents %}docs{% endif %}{{ undefined_name }}",
    "whitespace": "  {% set ns = namespace(n=0) %}\n  "
    "{% for m in messages %}\n  {% set ns.n = ns.n + 1 %}\n x{{ ns.n }}\n{% endfor %}\n",
    "json": "{{ messages | tojson(indent=2) }}{{ dict(a=1)['a'] }}",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}",
    "date": "{{ strftime_now('%Y') }} {{ messages[0].content.split(' ')[-1].upper() }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_same_text_as_transformers(name: str) -> None:
    """Whitespace, filters, functions, loop controls and generation blocks render as in transformers."""
    expected, _ = render_jinja_template([CHAT], chat_template=TEMPLATES[name], add_generation_prompt=True, **NAMES)
    assert render(TEMPLATES[name], CHAT, NAMES) == expected[0]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for", "[Uu]nexpected"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ nothing.at.all }}", "undefined"),
        ("{{ 1 // 0 }}", "zero"),
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{{ 'x' * 10**10 }}", "more than 512 MiB"),
        ("{{ 'x' | center(10**10) }}", "more than 512 MiB"),
        ("{{ '%100000000d' % 1 }}", "more than 4194304 characters"),
        ("{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", "512 MiB"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ messages.append(1) }}", "unsafe|not safely callable|immutable"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ '\\ud800' }}", "surrogates"),
        ("{% include 'x' %}", "loader"),
    ],
)
def test_bad_templates_end_in_one_line(template: str, reason: str) -> None:
    """A broken, refusing, huge or escaping template is one line with its reason and the advice to use --raw."""
    with pytest.raises(ValueError, match=reason) as caught:
        render(template, CHAT, NAMES)
    assert re.fullmatch(r"the model's chat template .+; use --raw to send the prompt as it is", str(caught.value))


@pytest.mark.parametrize(
    "template",
    ["{{ 7 ** (10 ** 9) }}", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"],
)
def test_endless_templates_are_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that computes for ever is ended at the time limit, in C code too."""
    monkeypatch.setattr(chat_template, "LIMIT_S", 0.5)
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"did not end within 0\.5 s; use --raw"):
        render(template, CHAT, NAMES)
    assert time.monotonic() - started < 3


def test_rendering_is_quick() -> None:
    """The child process costs well under the start-up budget of a run."""
    started = time.monotonic()
    render(TEMPLATES["chatml"], CHAT, NAMES)
    assert time.monotonic() - started < 1
