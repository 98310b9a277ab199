"""Available memory against /proc and made-up control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpplan.hwprofiles import host_memory
from tpplan.hwprofiles.host_memory import available_bytes, last_level_cache_bytes

GIB = 2**30


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control group of 1 GiB that holds 700 MiB, 200 MiB of which are file cache."""
    monkeypatch.setattr(host_memory, "_GROUPS", ((str(tmp_path), "limit", "usage", "inactive_file"),))
    (tmp_path / "limit").write_text(f"{GIB}\n")
    (tmp_path / "usage").write_text(f"{700 * 2**20}\n")
    (tmp_path / "memory.stat").write_text(f"anon {500 * 2**20}\ninactive_file {200 * 2**20}\nactive_file 0\n")
    return tmp_path


def machine_bytes() -> tuple[int, int]:
    """MemFree and MemTotal, the bounds of what may be called available."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return tuple(int(lines[key].split()[0]) * 1024 for key in ("MemFree", "MemTotal"))  # type: ignore[return-value]


def test_no_more_than_the_machine_has() -> None:
    """What is available is positive and less than the machine's memory."""
    assert 0 < available_bytes() < machine_bytes()[1]


def test_without_a_group_the_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside control groups it is what the kernel calls available: about what lies free or more, but not all."""
    monkeypatch.setattr(host_memory, "_GROUPS", (("/nonexistent", "limit", "usage", "inactive_file"),))
    free, total = machine_bytes()
    assert free / 2 < available_bytes() < total


def test_a_group_limits(group: Path) -> None:
    """A control group's limit counts, less what it holds; file cache gives way and does not count as held."""
    assert available_bytes() == (1024 - 500) * 2**20


def test_a_group_beyond_its_limit(group: Path) -> None:
    """A group that holds more than its limit leaves nothing, never less than nothing."""
    (group / "usage").write_text(f"{3 * GIB}\n")
    assert available_bytes() == 0


@pytest.mark.parametrize(("file", "text"), [("limit", "max\n"), ("usage", ""), ("memory.stat", "anon 1\n")])
def test_an_unlimited_or_odd_group(group: Path, file: str, text: str) -> None:
    """A group without limit, or with files that are not understood, does not limit."""
    (group / file).write_text(text)
    assert available_bytes() > machine_bytes()[0] / 2


def test_last_level_caches_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two pairs of cores with a cache of 32 MiB each; a core of which nothing is known, or no number, adds none."""
    monkeypatch.setattr(host_memory, "_CPUS", str(tmp_path))
    for core in range(5):
        for level, size, cores in ((0, "48K", str(core)), (3, "32768K" if core < 4 else "much", f"{core // 2 * 2}")):
            folder = tmp_path / f"cpu{core}" / "cache" / f"index{level}"
            folder.mkdir(parents=True)
            (folder / "size").write_text(f"{size}\n")
            (folder / "shared_cpu_list").write_text(cores)
    assert last_level_cache_bytes([0]) == 32 * 2**20
    assert last_level_cache_bytes(range(9)) == 64 * 2**20
    assert last_level_cache_bytes([7]) == 0
