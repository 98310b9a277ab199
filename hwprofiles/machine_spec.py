"""Machines in words: `2xrtx3090@4.0x8+rtx3060@4.0x4/a+cpu:ddr5-2ch:64GiB`, parsed and checked.

Knows the syntax and which names the catalogue has. Knows nothing of profiles.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .catalogue_files import KnownDevice, KnownLink, KnownMemory, known, known_devices, known_links, known_memories
from .units import parse_bytes

MOST_DEVICES = 16
LEAST_MEMORY_BYTES, MOST_MEMORY_BYTES = 8 * 2**30, 16 * 2**40
UPLINK = "4.0x4"  # of a desktop chipset, which the cards behind it share
FORM = "[COUNTx]NAME[@LINK][/PORT[=LINK]] or cpu:MEMORY[:SIZE]"
_CARD = re.compile(
    r"(?:(?P<count>\d{1,9})x)?(?P<name>[a-z][a-z0-9-]*)(?:@(?P<slot>[a-z0-9.]+))?"
    r"(?:/(?P<port>[a-z0-9_-]{1,16})(?:=(?P<uplink>[a-z0-9.]+))?)?",
    re.ASCII,
)


@dataclass(frozen=True)
class Card:
    """`link`: what card and slot can both do. `port`: "" on a root port of its own."""

    name: str
    device: KnownDevice
    link: KnownLink
    port: str = ""


@dataclass(frozen=True)
class Processor:
    """The CPU as a device."""

    memory: KnownMemory
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """Devices in the order they were named, and the links of shared ports by name."""

    text: str
    devices: tuple[Card | Processor, ...]
    ports: dict[str, KnownLink]

    @property
    def cards(self) -> tuple[Card, ...]:
        return tuple(device for device in self.devices if isinstance(device, Card))

    @property
    def processor(self) -> Processor | None:
        return next((device for device in self.devices if isinstance(device, Processor)), None)


def parse_machine(text: str) -> Machine:
    """The machine that `text` says; ValueError in one line names the part that is wrong, and the fix."""
    if not text.strip():
        raise ValueError("the machine has no devices: name some, as rtx3090@4.0x16+rtx3060@4.0x4")
    machine = text.strip().lower()
    devices: list[Card | Processor] = []
    uplinks: dict[str, str] = {}
    for term in machine.split("+"):
        term = term.strip()
        if not term:
            raise ValueError(f"{_shown(text)} has an empty part: join devices by single +, as rtx3090@4.0x16+rtx3060")
        devices += [_processor(term)] if term.startswith("cpu") else _cards(term, uplinks)
        if len(devices) > MOST_DEVICES:
            raise ValueError(f"{_shown(text)} has more than {MOST_DEVICES} devices: name fewer")
    if sum(isinstance(device, Processor) for device in devices) > 1:
        raise ValueError(f"{_shown(text)} names the CPU twice: its memory is one device, name it once")
    ports = sorted({card.port for card in devices if isinstance(card, Card) and card.port})
    return Machine(machine, tuple(devices), {port: _link(uplinks.get(port, UPLINK)) for port in ports})


def _cards(term: str, uplinks: dict[str, str]) -> list[Card | Processor]:
    match = _CARD.fullmatch(term)
    if match is None:
        raise ValueError(f"{_shown(term)} is no device: write {FORM}")
    count, name, port = int(match["count"] or 1), match["name"], match["port"] or ""
    if not 1 <= count <= MOST_DEVICES:
        raise ValueError(f"{_shown(term)} has {count} devices: 1 to {MOST_DEVICES} can be planned for")
    device = known(name, known_devices(), "device" if "@" in term else "profile file or device")
    if match["uplink"] and uplinks.setdefault(port, match["uplink"]) != match["uplink"]:
        raise ValueError(f"port {port!r} is both {uplinks[port]} and {match['uplink']}: give its link once")
    return [Card(name, device, _negotiated(device, match["slot"]), port)] * count


def _negotiated(device: KnownDevice, slot: str | None) -> KnownLink:
    """What the slot and the card's own connector can both do; the card's without a slot."""
    generation, lanes = int(device.pcie_generation.value), int(device.pcie_lanes.value)
    if slot is not None:
        link = _link(slot)
        generation, lanes = min(generation, link.generation), min(lanes, link.lanes)
    return known_links()[f"{generation}.0x{lanes}"]


def _link(name: str) -> KnownLink:
    return known(name, known_links(), "link")


def _processor(term: str) -> Processor:
    _, _, rest = term.partition(":")
    name, _, size = rest.partition(":")
    if not name or not term.startswith("cpu:"):
        raise ValueError(f"{_shown(term)} is no CPU: write cpu:MEMORY, with one of {', '.join(known_memories())}")
    memory = known(name, known_memories(), "memory")
    held = parse_bytes(size) if size else int(memory.memory_gib.value * 2**30)
    if not LEAST_MEMORY_BYTES <= held <= MOST_MEMORY_BYTES:
        raise ValueError(f"{_shown(term)} has {size} of memory: give 8 GiB to 16 TiB")
    return Processor(memory, held)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
