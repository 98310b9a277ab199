"""Device names: `cpu` (all cores of this process), `cpu:0`, `cpu:0-3`. Knows no other machine than this one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import combinations

_CPU = re.compile(r"cpu(?::(\d{1,5})(?:-(\d{1,5}))?)?")


def available_cores() -> tuple[int, ...]:
    """Cores that this process may run on, ascending."""
    return tuple(sorted(os.sched_getaffinity(0)))


def cores_of(name: str) -> tuple[int, ...]:
    """The cores that device `name` means on this machine; ValueError when it has none such."""
    match = _CPU.fullmatch(name)
    if match is None:
        raise ValueError(f"device {name!r} is not understood; name CPU devices cpu, cpu:0 or cpu:0-3")
    here = available_cores()
    if match[1] is None:
        return here
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ValueError(f"device {name!r} has no cores: write the smaller core first")
    missing = [core for core in range(first, last + 1) if core not in here]
    if missing:
        raise ValueError(f"device {name!r} is not on this machine: it offers cores {_spans(here)}")
    return tuple(range(first, last + 1))


def shared_cores(names: Sequence[str]) -> list[str]:
    """A line for every two devices that have cores in common."""
    return [
        f"devices {a} and {b} share core(s) {_spans(common)}: used together they slow each other down"
        for a, b in combinations(names, 2)
        if (common := tuple(sorted(set(cores_of(a)) & set(cores_of(b)))))
    ]


def _spans(cores: tuple[int, ...]) -> str:
    """`(0, 1, 2, 5)` as `0-2, 5`."""
    spans: list[list[int]] = []
    for core in cores:
        if spans and core == spans[-1][1] + 1:
            spans[-1][1] = core
        else:
            spans.append([core, core])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in spans)
