"""Figures as people read them, and the shape of a table. Knows notation only."""

from __future__ import annotations

import re
from collections.abc import Sequence

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, column names, rows of cells."""

UNITS = {"": 1, "b": 1} | {
    f"{prefix}{infix}b": base**power
    for infix, base in (("", 1000), ("i", 1024))
    for power, prefix in enumerate("kmgt", start=1)
}
SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([a-zA-Z]*)", re.ASCII)


def duration(seconds: float) -> str:
    """`0.000012` as `12 us`, `180` as `3 min`."""
    if seconds >= 120:
        return f"{seconds / 60:.3g} min"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def binary_bytes(count: int) -> str:
    """`8589934592` as `8.00 GiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.{2 if count < 100 * size else 0}f} {unit}"
    return f"{count} B"


def rate(per_s: float, unit: str) -> str:
    """`2.5e10` with unit `B/s` as `25.0 GB/s`."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if per_s >= size:
            return f"{per_s / size:.1f} {prefix}{unit}"
    return f"{per_s:.0f} {unit}"


def parse_bytes(text: str) -> int:
    """`8GiB`, `512 MB` or `1000` as bytes; ValueError for anything else."""
    match = SIZE.fullmatch(text.strip())
    if not match or match[2].lower() not in UNITS:
        raise ValueError(f"{text[:80]!r} is no size: write it as 8GiB, 512MB or plain bytes")
    return (
        int(float(match[1]) * UNITS[match[2].lower()]) if "." in match[1] else int(match[1]) * UNITS[match[2].lower()]
    )
