"""How much host memory this process may still take. Knows /proc and control groups, nothing else."""

from __future__ import annotations

import os
from pathlib import Path

_GROUP_LIMITS = (  # limit and usage: cgroup v2, then v1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
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
    for limit, usage in _GROUP_LIMITS:
        try:
            left.append(max(0, int(Path(limit).read_text()) - int(Path(usage).read_text())))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return left
