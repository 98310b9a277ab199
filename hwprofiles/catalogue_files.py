"""The catalogue: devices, links and memories by name, every figure with where it is from.

Knows the files beside it and how names are looked up. Knows nothing of machines put together from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeVar

import msgspec

T = TypeVar("T")


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number and where it is from: a maker's `spec`, reports from the `field`, a `rule` of thumb, or `measured` here.

    `note`: which report, what rule, and under what conditions.
    """

    value: float
    source: Literal["spec", "field", "rule", "measured"]
    note: str = ""


class KnownDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A card. `dense_flops_per_s`: 16-bit matrix products with float32 sums; `export_only`: why `run` cannot use it."""

    title: str
    memory_gib: Figure
    memory_bytes_per_s: Figure
    dense_flops_per_s: Figure
    float32_flops_per_s: Figure
    pcie_generation: Figure
    pcie_lanes: Figure
    export_only: str = ""
    note: str = ""


class KnownLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PCIe of one generation and width, in achievable bytes/s; `also`: its other names."""

    generation: int
    lanes: int
    push_bytes_per_s: Figure
    pull_bytes_per_s: Figure
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.generation}.0x{self.lanes}"


class KnownMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Host memory with the CPU that usually comes with it; `lanes`: of PCIe, that such a CPU has for cards at most."""

    title: str
    ddr: int
    channels: int
    memory_bytes_per_s: Figure
    memory_gib: Figure
    cores: Figure
    dense_flops_per_s: Figure
    lanes: Figure


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for all devices of a kind: shares of spec that are reached, and fixed seconds.

    `op_s`: of an operation; `pass_s`: of a pass; `push_s`, `pull_s`, `flag_s`: of an exchange's three parts;
    `copy_s`: a copy engine's start. `reserved_gib`: of memory, that no plan may use.
    """

    reserved_gib: Figure
    read_share: Figure
    gemm_share: Figure
    int8_share: Figure
    int4_share: Figure
    attention_share: Figure
    op_s: Figure
    pass_s: Figure
    push_s: Figure
    pull_s: Figure
    flag_s: Figure
    copy_s: Figure


_FOLDER = files(__package__) / "catalogue"
_TABLES = ("links.json", "memories.json", "rules.json")


def _read(name: str, type_: Any) -> Any:
    return msgspec.json.decode((_FOLDER / name).read_bytes(), type=type_)


@cache
def known_devices() -> Mapping[str, KnownDevice]:
    """Cards by name, in alphabetical order."""
    names = sorted(f.name for f in _FOLDER.iterdir() if f.name.endswith(".json") and f.name not in _TABLES)
    return {name.removesuffix(".json"): _read(name, KnownDevice) for name in names}


@cache
def known_links() -> Mapping[str, KnownLink]:
    """Links by name (`4.0x16`) and other names (`oculink`), narrow and old ones first."""
    links: dict[str, KnownLink] = _read("links.json", dict[str, KnownLink])
    return links | {other: link for link in links.values() for other in link.also}


@cache
def known_memories() -> Mapping[str, KnownMemory]:
    """Host memories by name (`ddr5-2ch`), few channels first."""
    memories: dict[str, KnownMemory] = _read("memories.json", dict[str, KnownMemory])
    return memories


@cache
def rules(kind: Literal["cpu", "gpu"]) -> Rules:
    """The rules for CPUs or GPUs."""
    each: dict[str, Rules] = _read("rules.json", dict[str, Rules])
    return each[kind]


def known(name: str, among: Mapping[str, T], what: str) -> T:
    """The one of `among` called `name`; ValueError with the nearest names, or all if none is near."""
    if name in among:
        return among[name]
    near = get_close_matches(name[:80], among, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(among)}"
    raise ValueError(f"unknown {what} {name[:80]!r}: {hint}")
