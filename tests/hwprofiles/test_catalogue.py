"""The catalogue says where every figure is from, and its figures are those that makers and reports give."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tpplan import hwprofiles
from tpplan.hwprofiles.catalogue_files import known, known_devices, known_links, known_memories, rules

FOLDER = Path(hwprofiles.__file__).parent / "catalogue"
SOURCES = {"spec", "field", "rule", "measured"}
NAMES_IN_NUMBERS = {"generation", "lanes", "ddr", "channels"}  # parts of a link's or a memory's name


def bare_numbers(value: Any, where: str = "") -> Iterator[str]:
    """Places of numbers without a source."""
    if isinstance(value, dict) and "value" in value:
        if value.get("source") not in SOURCES or not isinstance(value["value"], int | float):
            yield where
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from bare_numbers(item, f"{where}.{name}")
    elif isinstance(value, int | float) and where.rpartition(".")[2] not in NAMES_IN_NUMBERS:
        yield where


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_every_figure_has_a_source(path: Path) -> None:
    """No number stands alone: each says spec, field, rule or measured; what is no spec says more in a note."""
    stored = json.loads(path.read_text())
    assert list(bare_numbers(stored)) == []
    assert [f for f in figures(stored) if f["source"] != "spec" and not f.get("note")] == []


def figures(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and "value" in value:
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from figures(item)


PUBLISHED = {  # GB, GB/s, 16-bit TFLOP/s with float32 sums, PCIe generation and lanes
    "rtx2080ti": (11, 616, 53.8, 3, 16),
    "rtx3060": (12, 360, 25.5, 4, 16),
    "rtx3090": (24, 936, 71, 4, 16),
    "rtx4060ti": (16, 288, 44, 4, 8),
    "rtx4090": (24, 1008, 165, 4, 16),
    "rtx5090": (32, 1792, 209.5, 5, 16),
    "p40": (24, 347, 11.8, 3, 16),
    "a770": (16, 560, 137.6, 4, 16),
    "rx7900xtx": (24, 960, 122.8, 4, 16),
    "a100": (80, 2039, 312, 4, 16),
    "h100": (80, 3350, 989, 5, 16),
    "h200": (141, 4800, 989, 5, 16),
}


def test_devices_have_the_published_figures() -> None:
    """The twelve devices, with their makers' memory, bandwidth, matrix rate and slot."""
    found = {
        name: (
            d.memory_gib.value,
            d.memory_bytes_per_s.value / 1e9,
            d.dense_flops_per_s.value / 1e12,
            d.pcie_generation.value,
            d.pcie_lanes.value,
        )
        for name, d in known_devices().items()
    }
    assert found == {name: pytest.approx(figures) for name, figures in PUBLISHED.items()}


def test_only_what_triton_runs_is_not_export_only() -> None:
    """Pascal, Intel and AMD cards can be planned for, not run."""
    assert {name for name, d in known_devices().items() if d.export_only} == {"p40", "a770", "rx7900xtx"}


def test_links_follow_generation_and_width() -> None:
    """All widths of three generations; twice the lanes or a generation more gives 1.7 to 2.3 times the bytes, below
    what the encoding leaves of the signal; OCuLink is 4.0x4.
    """
    links = known_links()
    assert {*links} == {f"{g}.0x{n}" for g in (3, 4, 5) for n in (1, 2, 4, 8, 16)} | {"oculink"}
    assert links["oculink"] is links["4.0x4"]
    for link in links.values():
        for field in ("push_bytes_per_s", "pull_bytes_per_s"):
            bytes_per_s = getattr(link, field).value
            assert bytes_per_s < link.lanes * 2 ** (link.generation - 3) * 8e9 / 8 * 128 / 130
            for next_name in (f"{link.generation}.0x{2 * link.lanes}", f"{link.generation + 1}.0x{link.lanes}"):
                if next_name in links:
                    assert 1.7 < getattr(links[next_name], field).value / bytes_per_s < 2.3


def test_memories_are_channels_times_speed() -> None:
    """Names say generation and channels, titles the transfers a second; their product is the bandwidth."""
    for name, memory in known_memories().items():
        assert name == f"ddr{memory.ddr}-{memory.channels}ch"
        transfers_per_s = int(memory.title.partition("-")[2].partition(",")[0]) * 1e6
        assert memory.memory_bytes_per_s.value == pytest.approx(8 * memory.channels * transfers_per_s)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_rules_are_shares_and_microseconds(kind: Any) -> None:
    """Nothing is faster than its spec, and no fixed cost is as long as a millisecond."""
    for name in rules(kind).__struct_fields__:
        value = getattr(rules(kind), name).value
        if name.endswith("_share"):
            assert 0.5 <= value <= 1
        elif name.endswith("_s"):
            assert 0 <= value < 1e-3


@pytest.mark.parametrize(
    ("name", "among", "said"),
    [
        ("rtx3091", known_devices(), "rtx3090"),
        ("rtx4080", known_devices(), "rtx4090"),
        ("4.0x32", known_links(), "4.0x"),
        ("ddr5-2", known_memories(), "ddr5-2ch"),
        ("\x1b[2J" * 1000, known_links(), "oculink"),
    ],
)
def test_unknown_names_get_the_nearest(name: str, among: Any, said: str) -> None:
    """One line with the names that look alike, or all there are; hostile names are cut and escaped."""
    with pytest.raises(ValueError, match=r"^unknown thing '[ -~]{1,700}$") as refused:
        known(name, among, "thing")
    assert said in str(refused.value)
