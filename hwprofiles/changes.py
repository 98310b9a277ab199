"""A machine with a device more or less, or with another link: profiles made from profiles.

Knows how devices are numbered and what a link's rates do to exchanges. Knows nothing of what a change is worth.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from .catalogue_files import KnownLink, known, known_devices, known_links
from .machine import load_hardware
from .profile import DeviceProfile, HardwareProfile, Host, Link, OpPoint, Port

FROM_CATALOGUE = "from the catalogue"
MOST_DEVICES = 16


def with_machine(profile: HardwareProfile, text: str) -> HardwareProfile:
    """`profile` with all devices of another: a catalogue machine such as `rtx3090@4.0x8`, or a profile file.

    ValueError where there is no such, where a CPU or a port would be there twice, or for more than 16 devices.
    """
    added = load_hardware(text)
    ports = {port.name: port for port in profile.host.ports}
    for port in added.host.ports:
        if ports.setdefault(port.name, port) != port:
            raise ValueError(f"port {port.name!r} is there already, with another link: name a new one")
    for device in added.devices:
        profile = with_device(profile, device, tuple(ports.values()), added.host)
    return profile


def with_device(
    profile: HardwareProfile, device: DeviceProfile, ports: Sequence[Port] = (), its_host: Host | None = None
) -> HardwareProfile:
    """`profile` with `device` last, under the next number where its name is taken, and with the ports it may hang on.

    `its_host`: whose memory counts where `device` is its CPU. ValueError for a second CPU or a 17th device.
    """
    if len(profile.devices) == MOST_DEVICES:
        raise ValueError(f"more than {MOST_DEVICES} devices cannot be planned for")
    host = msgspec.structs.replace(profile.host, ports=tuple(ports) or profile.host.ports)
    if device.kind == "cpu":
        if any(other.kind == "cpu" for other in profile.devices):
            raise ValueError("the machine's CPU is among its devices already")
        if its_host is not None:
            memory = {"memory_bytes": its_host.memory_bytes, "bytes_per_s": its_host.bytes_per_s}
            host = msgspec.structs.replace(host, cores=its_host.cores, **memory)
    new = msgspec.structs.replace(device, name=_free_name(device.name, [d.name for d in profile.devices]))
    return msgspec.structs.replace(profile, devices=(*profile.devices, new), host=host)


def without_device(profile: HardwareProfile, name: str) -> HardwareProfile:
    """`profile` less one device; ValueError names those that exist, or says that it is the last."""
    gone = _device(profile, name)
    if len(profile.devices) == 1:
        raise ValueError(f"{name} is the only device: nothing would be left")
    return msgspec.structs.replace(profile, devices=tuple(d for d in profile.devices if d is not gone))


def with_link(profile: HardwareProfile, name: str, link: str) -> HardwareProfile:
    """`profile` with the slot of one device changed to `link`, as `4.0x8`; on a port of its own or shared as before.

    A device of the catalogue gets no more than its own connector can do. What was measured is timed anew: each exchange
    by its bytes at the new rate instead of the old one. ValueError for unknown names and for devices without a link.
    """
    device, rates = _device(profile, name), known(link, known_links(), "link")
    if device.link is None:
        raise ValueError(f"{name} has no link to change: it sits on its own memory")
    model = name.partition(":")[0]
    if profile.created == FROM_CATALOGUE and model in known_devices():
        built = load_hardware(f"{model}@{link}").devices[0]
        assert built.link
        port = msgspec.structs.replace(built.link, port=device.link.port)
        changed = msgspec.structs.replace(device, link=port, ops=built.ops, description=built.description)
    else:
        new = Link(rates.name, rates.push_bytes_per_s.value, rates.pull_bytes_per_s.value, device.link.port)
        ops = tuple(_retimed(point, device.link, new) for point in device.ops)
        changed = msgspec.structs.replace(device, link=new, ops=ops)
    devices = tuple(changed if d is device else d for d in profile.devices)
    return msgspec.structs.replace(profile, devices=devices)


def with_all_links(profile: HardwareProfile, link: str) -> HardwareProfile:
    """`profile` with `link` for every device that has one; ValueError where none has."""
    names = [device.name for device in profile.devices if device.link]
    if not names:
        raise ValueError("no device of this machine has a link to change")
    for name in names:
        profile = with_link(profile, name, link)
    return profile


def link_ladder() -> tuple[str, ...]:
    """Names of links, each at least half as fast again as the one before."""
    ladder: list[KnownLink] = []
    for link in sorted(dict.fromkeys(known_links().values()), key=lambda link: link.push_bytes_per_s.value):
        if not ladder or link.push_bytes_per_s.value >= 1.5 * ladder[-1].push_bytes_per_s.value:
            ladder.append(link)
    return tuple(link.name for link in ladder)


def _device(profile: HardwareProfile, name: str) -> DeviceProfile:
    """The device called `name`; ValueError names those that exist, or those that the name could mean."""
    meant = [device.name for device in profile.devices if device.name.startswith(f"{name}:")]
    if meant and all(device.name != name for device in profile.devices):
        raise ValueError(f"there is no device {name!r}: name {' or '.join(meant)}")
    return profile.device(name)


def _retimed(point: OpPoint, old: Link, new: Link) -> OpPoint:
    if point.op not in ("push", "pull"):
        return point
    rate = {"push": (old.push_bytes_per_s, new.push_bytes_per_s), "pull": (old.pull_bytes_per_s, new.pull_bytes_per_s)}
    before, after = rate[point.op]
    moved = 4 * point.rows * point.in_features * max(1, point.peers)
    least_s, more_s = moved / after, moved / after - moved / before
    return msgspec.structs.replace(
        point, alone_s=max(point.alone_s + more_s, least_s), together_s=max(point.together_s + more_s, least_s)
    )


def _free_name(name: str, taken: Sequence[str]) -> str:
    """`rtx3090`, or the number after the highest where there are such devices."""
    model = name.partition(":")[0]
    alike = [other for other in taken if other.partition(":")[0] == model]
    if not alike:
        return name
    numbers = [int(match[1]) for other in alike if (match := re.fullmatch(r"[^:]+:(\d{1,4})", other))]
    return f"{model}:{max([*numbers, len(alike) - 1]) + 1}"
