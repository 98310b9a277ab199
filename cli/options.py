"""Command-line values with a syntax of their own: sizes, caps, splits, prompts.

Knows how they are written. Whether they suit a model or machine is the planner's business.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any

import click

from ..hwprofiles.units import parse_bytes

LONGEST_TEXT = 500
"""Of a machine in words, as it is shown in tables."""


class Cap(click.ParamType[tuple[str, int]]):
    """`cuda:0=8GiB` as ("cuda:0", 8589934592)."""

    name = "DEVICE=SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        device, _, size = value.rpartition("=")
        if not device:
            self.fail(f"{value!r} is no cap: write it as cpu:0=8GiB", param, ctx)
        try:
            return device, parse_bytes(size)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Assignment(click.ParamType[tuple[str, str]]):
    """`rtx3060=4.0x8` as ("rtx3060", "4.0x8")."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, _, wanted = value.rpartition("=")
        if not name or not wanted:
            self.fail(f"{value!r} gives nothing a value: write it as rtx3060=4.0x8", param, ctx)
        return name, wanted


class Split(click.ParamType[tuple[int, ...]]):
    """`2,1` as (2, 1)."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if not re.fullmatch(r"\d{1,9}(,\d{1,9}){0,63}", value, re.ASCII):
            self.fail(f"{value!r} is no split: write whole numbers, one per device, as 2,1", param, ctx)
        return tuple(map(int, value.split(",")))


def by_device(ctx: click.Context, param: click.Parameter, caps: tuple[tuple[str, int], ...]) -> dict[str, int]:
    """Click callback: repeated caps as a dict, each device once."""
    if len(dict(caps)) < len(caps):
        raise click.BadParameter("one device has two caps", ctx, param)
    return dict(caps)


def utf8(ctx: click.Context, param: click.Parameter, text: str) -> str:
    """Click callback: text that Python took for another encoding than the UTF-8 it is, put right."""
    with suppress(UnicodeError):
        return text.encode().decode()
    with suppress(UnicodeError):
        return os.fsencode(text).decode()
    raise click.BadParameter("the prompt is not valid UTF-8", ctx, param)


def short_text(ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> list[Any]:
    """Click callback: texts, or pairs of them, that fit a table on a terminal, each once."""
    for text in (text for value in values for text in (value if isinstance(value, tuple) else (value,))):
        if not text or not text.isprintable() or len(text) > LONGEST_TEXT:
            raise click.BadParameter(f"{text[:80]!r} is no name", ctx, param)
    return list(dict.fromkeys(values))


def workload_options(command: Any) -> Any:
    """Decorator: what is to be answered, in which formats, within which memory; `solve` and `whatif` ask alike."""
    formats = click.Choice(["native", "float32", "bfloat16", "int8", "int4"])
    for option in reversed(
        [
            _count("--prompt-tokens", 512, "Per sequence."),
            _count("--new-tokens", 128, "Per sequence."),
            _count("--batch", 1, "Sequences at once."),
            _count("--context", 4096, "Tokens the KV cache holds per sequence."),
            click.option("--dtype", type=formats, help="Of weights; native: as they are stored."),
            click.option("--cache-dtype", type=click.Choice(["float32", "bfloat16"]), help="Of the KV cache."),
            click.option(
                "--cap", "caps", type=Cap(), multiple=True, callback=by_device, help="Memory limit: cpu:0=8GiB."
            ),
        ]
    ):
        command = option(command)
    return command


def _count(name: str, usual: int, text: str) -> Any:
    return click.option(name, type=click.IntRange(1, 2**24), default=usual, show_default=True, help=text)
