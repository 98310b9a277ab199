"""How much host memory this process may still take, what the CPU is called, its caches. Knows /proc, /sys and control
groups.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

_CPUS = "/sys/devices/system/cpu"
_GROUPS = (  # folder, limit, usage, line of memory.stat with the file cache that gives way: cgroup v2, then v1
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_bytes() -> int:
    """Memory that can be taken without swapping: MemAvailable, or what the control group leaves, whichever is less."""
    return min([_mem_available_bytes(), *_group_left_bytes()])


def _mem_available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_left_bytes() -> list[int]:
    left = []
    for folder, limit, usage, cache in _GROUPS:
        try:
            stat = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
            held = int(Path(folder, usage).read_text()) - int(stat[cache])
            left.append(max(0, int(Path(folder, limit).read_text()) - held))
        except (OSError, ValueError, KeyError):  # no such group, or "max"
            continue
    return left


def cpu_model() -> str:
    """As the system names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "CPU"


def last_level_cache_bytes(cores: Sequence[int]) -> int:
    """Of all last-level caches that `cores` use; 0 where the system does not tell."""
    found: dict[str, int] = {}
    for core in cores:
        levels = sorted(Path(_CPUS, f"cpu{core}", "cache").glob("index[0-9]"))
        try:
            size = levels[-1].joinpath("size").read_text().strip()  # 32768K
            found[levels[-1].joinpath("shared_cpu_list").read_text()] = int(size.removesuffix("K")) * 1024
        except (IndexError, OSError, ValueError):
            continue
    return sum(found.values())
