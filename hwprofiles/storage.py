"""`profile.json`: a HardwareProfile saved, and loaded only if every figure in it can be true.

Knows the file. Knows nothing of measuring.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from .files import read_struct, write_atomically
from .profile import SCHEMA_VERSION, DeviceProfile, HardwareProfile, Host, Link, Port

FIX = "run `tpplan profile`"
MAX_S, MAX_SIZE, MAX_RATE, MAX_BYTES = 1e4, 2**32, 1e18, 2**50


def save_profile(profile: HardwareProfile, path: str | Path) -> None:
    """Writes `profile` as JSON; OSError if that cannot be done."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")


def load_profile(path: str | Path) -> HardwareProfile:
    """The profile in `path`; ValueError (with the fix) if of another version or impossible, OSError if unreadable."""
    profile = read_struct(path, HardwareProfile, SCHEMA_VERSION, FIX)
    try:
        check_profile(profile)
    except ValueError as error:
        raise ValueError(f"cannot use {path}: {error}; {FIX}") from error
    return profile


def check_profile(profile: HardwareProfile) -> None:
    """ValueError unless there are devices, with unique names, and every rate, time, size and port is possible."""
    names = [device.name for device in profile.devices]
    if not names:
        raise ValueError("it has no devices")
    if len(set(names)) < len(names):
        raise ValueError("two devices have the same name")
    if not all(0 <= s <= MAX_S for s in (profile.rendezvous_s, *(d.step_overhead_s for d in profile.devices))):
        raise ValueError("it has an impossible rendezvous_s or step_overhead_s")
    _check_host(profile.host)
    ports = {port.name for port in profile.host.ports}
    for device in profile.devices:
        _check_device(device)
        if device.link is not None:
            _check_link(device.name, device.link, ports)


def _check_host(host: Host) -> None:
    if not 0 <= host.memory_bytes <= MAX_BYTES:
        raise ValueError(f"its host has impossible memory_bytes of {host.memory_bytes}")
    if host.bytes_per_s != 0 and not 1 <= host.bytes_per_s <= MAX_RATE:
        raise ValueError(f"its host memory has {host.bytes_per_s:.6g} bytes/s")
    names = [port.name for port in host.ports]
    if len(set(names)) < len(names):
        raise ValueError("two ports have the same name")
    for port in host.ports:
        if not port.name or not port.name.isprintable():
            raise ValueError(f"{port.name!r} is no port name")
        _check_rates(f"port {port.name}", port)


def _check_link(device: str, link: Link, ports: set[str]) -> None:
    if not link.name.isprintable():
        raise ValueError(f"{link.name!r} is no link name")
    _check_rates(f"the link of {device}", link)
    if link.port and link.port not in ports:
        raise ValueError(f"{device} hangs on port {link.port!r}, which is not among the host's")


def _check_rates(what: str, path: Link | Port) -> None:
    for field in ("push_bytes_per_s", "pull_bytes_per_s"):
        if not 1 <= getattr(path, field) <= MAX_RATE:
            raise ValueError(f"{what} has an impossible {field} of {getattr(path, field):.6g}")


def _check_device(device: DeviceProfile) -> None:
    if not device.name or not device.name.isprintable():
        raise ValueError(f"{device.name!r} is no device name")
    for field in ("read_bytes_per_s_alone", "read_bytes_per_s", "matmul_flops_per_s"):
        if not 1 <= getattr(device, field) <= MAX_RATE:
            raise ValueError(f"{device.name} has a {field} of {getattr(device, field):.6g}")
    if not 0 <= device.free_bytes <= MAX_BYTES:
        raise ValueError(f"{device.name} has impossible free_bytes of {device.free_bytes}")
    for point in device.ops:
        if not all(0 < seconds <= MAX_S for seconds in (point.alone_s, point.together_s)):
            raise ValueError(f"{device.name} has an impossible time for {point.op}")
        if not all(1 <= size <= MAX_SIZE for size in (point.rows, point.in_features, point.out_features)):
            raise ValueError(f"{device.name} has an impossible size for {point.op}")
