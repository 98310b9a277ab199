"""Device names: `cpu` (all cores of this process), `cpu:0`, `cpu:0-3`, `cuda:0` (a GPU), `cuda:0/16` (16 SMs of it).

Several partitions of one size are told apart by number: `cuda:0/8`, `cuda:0/8#2`. Knows no other machine than this one,
and of GPUs only how they are named.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

_CPU = re.compile(r"cpu(?::(\d{1,5})(?:-(\d{1,5}))?)?", re.ASCII)
_GPU = re.compile(r"cuda:(\d{1,3})(?:/(\d{1,4})(?:#(\d{1,3}))?)?", re.ASCII)
KNOWN_NAMES = "name CPU devices cpu, cpu:0 or cpu:0-3, GPUs cuda:0, and parts of GPUs cuda:0/16"


@dataclass(frozen=True)
class GpuName:
    """`sms`: streaming multiprocessors of a partition, 0 for the whole GPU; `number`: which of equal partitions."""

    index: int
    sms: int = 0
    number: int = 1


def is_gpu(name: str) -> bool:
    """Whether `name` is meant as a GPU or a part of one; it may still be wrong."""
    return name.startswith("cuda")


def gpu_of(name: str) -> GpuName:
    """The GPU that device `name` means, here or not; ValueError when it is no such name."""
    match = _GPU.fullmatch(name)
    if match is None:
        raise ValueError(f"device {name!r} is not understood; {KNOWN_NAMES}")
    index, sms, number = (int(group) if group else None for group in match.groups())
    if sms == 0 or number == 0:
        raise ValueError(f"device {name!r} is empty: write cuda:{index}/SMS with 1 SM or more, and numbers from #1 on")
    assert index is not None
    return GpuName(index, sms or 0, number or 1)


def numbered(names: Sequence[str]) -> list[str]:
    """`names` with equal partitions numbered in order: `cuda:0/8` twice becomes `cuda:0/8` and `cuda:0/8#2`.

    Names in a plan or profile come back as they are.
    """
    seen: Counter[GpuName] = Counter()
    result = []
    for name in names:
        if is_gpu(name) and (gpu := gpu_of(name)).sms and "#" not in name:
            seen[gpu] += 1
            name = f"{name}#{seen[gpu]}" if seen[gpu] > 1 else name
        result.append(name)
    return result


def check_names(names: Sequence[str]) -> None:
    """ValueError unless every name is understood, here if a CPU's, meant once, and no GPU is whole and in parts."""
    meant = [gpu_of(name) if is_gpu(name) else cores_of(name) for name in names]
    if len(set(meant)) < len(meant):
        raise ValueError("a device is named twice; name each once")
    gpus = [(name, gpu_of(name)) for name in names if is_gpu(name)]
    for (a, one), (b, other) in combinations(gpus, 2):
        if one.index == other.index and not (one.sms and other.sms):
            raise ValueError(f"devices {a} and {b} overlap: name GPU {one.index} whole, or only parts of it")


def available_cores() -> tuple[int, ...]:
    """Cores that this process may run on, ascending."""
    return tuple(sorted(os.sched_getaffinity(0)))


def cores_of(name: str) -> tuple[int, ...]:
    """The cores that device `name` means on this machine; ValueError when it has none such."""
    match = _CPU.fullmatch(name)
    if match is None:
        raise ValueError(f"device {name!r} is not understood; {KNOWN_NAMES}")
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
    """A line for every two CPU devices that have cores in common."""
    return [
        f"devices {a} and {b} share core(s) {_spans(common)}: used together they slow each other down"
        for a, b in combinations([name for name in names if not is_gpu(name)], 2)
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
