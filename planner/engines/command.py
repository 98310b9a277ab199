"""A command line for another engine, and what it cannot say of the plan. Knows shells, and no engine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from .placement import listed
from .usage import Device, Usage

VISIBLE = {"CUDA": "CUDA_VISIBLE_DEVICES", "ROCm": "HIP_VISIBLE_DEVICES"}


class Export(msgspec.Struct, frozen=True):
    """`command` and `environment` make `engine` do what is nearest to the plan. `cannot_express`: what is lost.
    `notes`: what to know or check before use.
    """

    engine: str
    command: tuple[str, ...]
    environment: dict[str, str]
    cannot_express: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def shell(self) -> str:
        """One line for a POSIX shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*settings, shlex.join(self.command)])


def visible(devices: Sequence[Device]) -> dict[str, str]:
    """The environment that shows an engine these GPUs, of one backend, in this order, and no others."""
    backends = {device.address.backend for device in devices}
    assert len(backends) == 1
    return {VISIBLE[backends.pop()]: ",".join(str(device.address.index) for device in devices)}


def cores(usage: Usage) -> tuple[str, int]:
    """The cores of all CPU devices that compute, as `0-3,5`, and how many; ("", 0) where a name means all."""
    pools = [device.address.cores for device in usage.devices if not device.gpu and device.layer_bytes]
    if not pools or "" in pools:
        return "", 0
    numbers: set[int] = set()
    for first, _, last in (pool.partition("-") for pool in pools):
        numbers |= set(range(int(first), int(last or first) + 1))
    return ",".join(pools), len(numbers)


def numbering_notes(devices: Sequence[Device]) -> list[str]:
    """What to check about the numbers of GPUs."""
    assumed = [device.address for device in devices if device.address.assumed]
    if assumed:
        names = listed(
            f"{device.name} for {device.address.backend} device {device.address.index}" for device in devices
        )
        return [f"takes {names}: change the numbers if they are others"]
    if len(devices) > 1 and any(device.address.backend == "CUDA" for device in devices):
        return ["GPUs are numbered as CUDA does, fastest first; nvidia-smi numbers them by slot"]
    return []


def path_argument(path: str) -> str:
    """A path that no command takes for an option."""
    return f"./{path}" if path.startswith("-") else path
