"""Renders a model's chat template as transformers does, in a process of its own.

A template is a program that came with the model. jinja2's sandbox keeps it from the machine but not from computing
for ever or from filling memory, so it runs in a child process with a limit on both. Also the child's program: run as a
script, hence no relative imports.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

LIMIT_S = 10
LIMIT_BYTES = 1 << 29
LIMIT_CHARACTERS = 1 << 22
ADVICE = "use --raw to send the prompt as it is"


def render(template: str, messages: list[dict[str, str]], special_tokens: dict[str, str]) -> str:
    """The prompt for `messages` (dicts with role and content), ending where the assistant's answer begins.

    `special_tokens`: what the template may name, such as `bos_token`. Raises ValueError, in one line, for a template
    that is broken, refuses the messages, or needs more than 10 s, 512 MiB or 4 million characters.
    """
    request = json.dumps({"template": template, "messages": messages, "special_tokens": special_tokens})
    try:
        child = subprocess.run(
            [sys.executable, "-P", __file__], input=request.encode(), capture_output=True, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"the model's chat template did not end within {LIMIT_S} s; {ADVICE}") from None
    if child.returncode:
        reason = " ".join(child.stderr.decode(errors="replace").split())[-300:] or "its process died"
        raise ValueError(f"the model's chat template failed: {reason}; {ADVICE}")
    return child.stdout.decode()


def _environment() -> Any:
    """The sandbox with transformers' settings, filter and functions."""
    from datetime import datetime

    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's words for training; for a prompt it is its body."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 wants a set here

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda style: datetime.now().strftime(style)
    return environment


def _render_here(template: str, messages: list[dict[str, str]], special_tokens: dict[str, str]) -> str:
    text: str = (
        _environment()
        .from_string(template)
        .render(**special_tokens, messages=messages, tools=None, documents=None, add_generation_prompt=True)
    )
    if len(text) > LIMIT_CHARACTERS:
        raise ValueError(f"it wrote more than {LIMIT_CHARACTERS} characters")
    return text


def _main() -> int:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        text = _render_here(**json.load(sys.stdin))
        sys.stdout.buffer.write(text.encode())
    except MemoryError:
        sys.stderr.write(f"it needs more than {LIMIT_BYTES >> 20} MiB")
        return 1
    except Exception as error:  # whatever a template can raise ends as one line
        sys.stderr.write(f"{error or type(error).__name__}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
