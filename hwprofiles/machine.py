"""What `--hardware` means: a profile that was measured, or a machine put together from the catalogue.

Knows how a catalogue machine becomes a HardwareProfile. Knows nothing of planning.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from typing import Literal

from .. import __version__
from .catalogue_files import KnownDevice, KnownMemory, known_memories, rules
from .machine_spec import Card, Machine, Processor, parse_machine
from .profile import SCHEMA_VERSION, DeviceProfile, HardwareProfile, Host, Link, OpPoint, Port
from .roofline import Roof, roofline_points
from .storage import load_profile

GIB = 2**30


def is_file(hardware: str) -> bool:
    """Whether `hardware` names a profile file, there or not, rather than a machine."""
    return hardware.endswith(".json") or (os.path.exists(hardware) and not os.path.isdir(hardware))


def load_hardware(hardware: str) -> HardwareProfile:
    """The profile in a file, or of a machine such as `rtx3090@4.0x16+rtx3060@4.0x4+cpu:ddr5-2ch`.

    ValueError in one line with the fix; OSError where a file cannot be read.
    """
    if is_file(hardware):
        return load_profile(hardware)
    return machine_profile(parse_machine(hardware))


def machine_profile(machine: Machine) -> HardwareProfile:
    """Every device alone and together alike: what they share (ports, host memory) is priced where they meet."""
    names, memory = _names(machine), host_memory(machine)
    processor = machine.processor
    host = Host(
        description=machine.text,
        cores=int(memory.cores.value),
        memory_bytes=processor.memory_bytes - _reserved("cpu") if processor else int(memory.memory_gib.value) * GIB,
        bytes_per_s=memory.memory_bytes_per_s.value * rules("cpu").read_share.value,
        ports=tuple(
            Port(name, link.push_bytes_per_s.value, link.pull_bytes_per_s.value) for name, link in machine.ports.items()
        ),
    )
    return HardwareProfile(
        schema_version=SCHEMA_VERSION,
        tpplan_version=__version__,
        created="from the catalogue",
        quick=False,
        host=host,
        rendezvous_s=rules("gpu" if machine.cards else "cpu").flag_s.value,
        devices=tuple(
            _card(name, d) if isinstance(d, Card) else _processor(name, d) for name, d in zip(names, machine.devices)
        ),
    )


def host_memory(machine: Machine) -> KnownMemory:
    """The CPU's, where one is named. Else DDR5 where a link is PCIe 5.0, DDR4 below, in the fewest channels that CPUs
    with lanes enough for all links (a shared port's once) have.
    """
    if machine.processor:
        return machine.processor.memory
    own = [card.link for card in machine.cards if not card.port]
    ddr = 5 if any(card.link.generation >= 5 for card in machine.cards) else 4
    lanes = sum(link.lanes for link in [*own, *machine.ports.values()])
    candidates = [memory for memory in known_memories().values() if memory.ddr == ddr]
    return next((memory for memory in candidates if memory.lanes.value >= lanes), candidates[-1])


def _names(machine: Machine) -> list[str]:
    """`rtx3090` where there is one, `rtx3090:0`, `rtx3090:1` where there are more; the CPU is `cpu`."""
    plain = [device.name if isinstance(device, Card) else "cpu" for device in machine.devices]
    total, seen = Counter(plain), Counter[str]()
    names = []
    for name in plain:
        names.append(f"{name}:{seen[name]}" if total[name] > 1 else name)
        seen[name] += 1
    return names


def _card(name: str, card: Card) -> DeviceProfile:
    known, link = card.device, card.link
    roof = card_roof(known, link.push_bytes_per_s.value, link.pull_bytes_per_s.value)
    return DeviceProfile(
        name=name,
        kind="cuda",
        description=f"{known.title}, PCIe {link.name}",
        cores=(),
        free_bytes=int(known.memory_gib.value * GIB) - _reserved("gpu"),
        read_bytes_per_s_alone=roof.read_bytes_per_s,
        read_bytes_per_s=roof.read_bytes_per_s,
        matmul_flops_per_s=roof.matmul_flops_per_s,
        step_overhead_s=roof.rules.pass_s.value,
        ops=_points(roof),
        link=Link(link.name, roof.push_bytes_per_s, roof.pull_bytes_per_s, card.port),
        export_only=known.export_only,
    )


def _processor(name: str, processor: Processor) -> DeviceProfile:
    roof, memory = processor_roof(processor.memory), processor.memory
    return DeviceProfile(
        name=name,
        kind="cpu",
        description=f"CPU with {memory.title}",
        cores=tuple(range(int(memory.cores.value))),
        free_bytes=processor.memory_bytes - _reserved("cpu"),
        read_bytes_per_s_alone=roof.read_bytes_per_s,
        read_bytes_per_s=roof.read_bytes_per_s,
        matmul_flops_per_s=roof.matmul_flops_per_s,
        step_overhead_s=roof.rules.pass_s.value,
        ops=_points(roof),
    )


def card_roof(known: KnownDevice, push_bytes_per_s: float, pull_bytes_per_s: float) -> Roof:
    """What a card reaches on a link of these rates."""
    share = rules("gpu")
    return Roof(
        rules=share,
        read_bytes_per_s=known.memory_bytes_per_s.value * share.read_share.value,
        matmul_flops_per_s=known.dense_flops_per_s.value * share.gemm_share.value,
        float32_flops_per_s=known.float32_flops_per_s.value * share.gemm_share.value,
        push_bytes_per_s=push_bytes_per_s,
        pull_bytes_per_s=pull_bytes_per_s,
    )


def processor_roof(memory: KnownMemory) -> Roof:
    """What a CPU reaches; it exchanges at the speed of its memory."""
    share = rules("cpu")
    read = memory.memory_bytes_per_s.value * share.read_share.value
    matmul = memory.dense_flops_per_s.value * share.gemm_share.value
    return Roof(share, read, matmul, matmul, read, read)


@cache
def _points(roof: Roof) -> tuple[OpPoint, ...]:
    return roofline_points(roof)


def _reserved(kind: Literal["cpu", "gpu"]) -> int:
    return int(rules(kind).reserved_gib.value * GIB)
