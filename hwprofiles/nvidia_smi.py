"""What nvidia-smi says of GPUs and their slots. Needs nothing but the program, which comes with the driver."""

from __future__ import annotations

import csv
import subprocess
from typing import NamedTuple

FIELDS = (
    "uuid,name,driver_version,memory.free,pcie.link.gen.current,pcie.link.gen.max,pcie.link.width.current,"
    "pcie.link.width.max"
)
LIMIT_S = 20.0


class Slot(NamedTuple):
    """PCIe generation and lanes, as they are now and at most; 0 where the driver does not tell."""

    generation: int
    generation_max: int
    width: int
    width_max: int

    @property
    def name(self) -> str:
        """`4.0x16`, as machines are written; "" where unknown."""
        return f"{self.generation}.0x{self.width}" if self.generation and self.width else ""

    def problem(self) -> str:
        """In words, how the link falls short of what card and slot can; "" where it does not, or nobody knows."""
        if not (self.name and self.generation_max and self.width_max):
            return ""
        if (self.generation, self.width) >= (self.generation_max, self.width_max) and self.width >= self.width_max:
            return ""
        most = f"{self.generation_max}.0x{self.width_max}"
        return f"runs at PCIe {self.name} under load, {most} is possible: look at slot, riser and BIOS"


class Card(NamedTuple):
    """One line of nvidia-smi; `free_bytes` 0 where it does not tell."""

    uuid: str
    name: str
    driver: str
    free_bytes: int
    slot: Slot


def cards() -> dict[str, Card]:
    """By UUID without its `GPU-`; empty where there is no nvidia-smi, or it fails."""
    command = ["nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_cards(done.stdout) if done.returncode == 0 else {}


def parse_cards(text: str) -> dict[str, Card]:
    """Lines of `FIELDS`; lines with another number of fields are passed over."""
    rows = (row for row in csv.reader(text.splitlines(), skipinitialspace=True) if len(row) == 8)
    found = [
        Card(uuid.removeprefix("GPU-"), name, driver, _number(free) * 2**20, Slot(*map(_number, link)))
        for uuid, name, driver, free, *link in rows
    ]
    return {card.uuid: card for card in found}


def _number(text: str) -> int:
    """`[N/A]` is 0."""
    return int(text) if text.strip().isdecimal() else 0
