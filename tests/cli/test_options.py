"""Sizes, caps, splits and prompts as typed."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpplan.cli.options import Cap, Split, parse_bytes, utf8


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("8GiB", 8 * 1024**3),
        ("1.5 GiB", 3 * 1024**3 // 2),
        ("512MB", 512 * 10**6),
        ("3kib", 3072),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """Binary and decimal units in any case, fractions, and plain bytes."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e9", "8 gigs", "inf", "nan", "1" * 40, "\u0661GiB", "1.GiB"])
def test_bad_sizes(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="is no size"):
        parse_bytes(text)


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    """Any text gives a value or a usage error."""
    for kind in (Cap(), Split()):
        try:
            kind.convert(text, None, None)
        except click.UsageError:
            continue


def test_cap_splits_at_the_last_sign() -> None:
    """Device names may hold anything but the size."""
    assert Cap().convert("cuda:0/16=8GiB", None, None) == ("cuda:0/16", 8 * 2**30)


def test_split_is_whole_numbers() -> None:
    """Zero shares are ordinary."""
    assert Split().convert("3,0", None, None) == (3, 0)


def test_one_cap_a_device(tpplan) -> None:
    """Two caps for one device are a usage error."""
    done = tpplan("solve", "m", "--cap", "cpu:0=1", "--cap", "cpu:0=2")
    assert done.code == 2
    assert "two caps" in done.stderr


def test_prompts_are_utf8(tpplan) -> None:
    """Bytes that Python read as something else are read as UTF-8 again; bytes that are not are a usage error."""
    assert utf8(None, None, "h\u00e9") == "h\u00e9"
    assert tpplan("run", "--prompt", "a\udcff").code == 2
    assert "not valid UTF-8" in tpplan("run", "--prompt", "a\udcff").stderr


def test_json_is_utf8_in_any_locale() -> None:
    """What JSON holds comes out as UTF-8 where the locale knows only ASCII, plain text as question marks."""
    code = "from tpplan.cli import main, output; main._open_streams(); output.emit('\\u20ac'); print('\\u20ac')"
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, env=env).stdout == b'"\xe2\x82\xac"\n?\n'
