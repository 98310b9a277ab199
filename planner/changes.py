"""A machine, or a request, changed in one way: what `explain` and the advice on what does not fit ask about.

Knows how a change shows in a profile's figures. Knows nothing of plans or what a change is worth.
"""

from __future__ import annotations

import re

import msgspec

from ..hwprofiles.profile import DeviceProfile, HardwareProfile, Host, OpPoint
from .request import Request

MACHINE = tuple[HardwareProfile, Request]


def with_memory(profile: HardwareProfile, request: Request, name: str, extra_bytes: int) -> MACHINE:
    """More free memory on a device, and a cap given for it raised as much; the host's too where it is the CPU's."""
    device = profile.device(name)
    grown = msgspec.structs.replace(device, free_bytes=device.free_bytes + extra_bytes)
    host = _host_with(profile, extra_bytes if device.kind == "cpu" else 0)
    caps = {n: cap + extra_bytes * (n == name) for n, cap in request.caps.items()}
    return _exchanged(profile, grown, host), msgspec.structs.replace(request, caps=caps)


def without_memory_limits(profile: HardwareProfile, request: Request, enough_bytes: int) -> MACHINE:
    """Every device and the host have at least `enough_bytes` free, whatever the caps."""
    devices = tuple(msgspec.structs.replace(d, free_bytes=max(d.free_bytes, 2 * enough_bytes)) for d in profile.devices)
    host = _host_with(profile, 2 * enough_bytes * len(devices))
    return msgspec.structs.replace(profile, devices=devices, host=host), msgspec.structs.replace(request, caps={})


def with_link_rate(profile: HardwareProfile, name: str, factor: float) -> HardwareProfile:
    """A device's link `factor` times as fast, both ways. Its pushes and pulls keep the time that an empty one
    would take, which is not the link's; what is beyond that shrinks. Ports and host memory stay as they are.

    ValueError for a device without a link.
    """
    device = profile.device(name)
    if device.link is None:
        raise ValueError(f"{name} has no link to change: it is its own host memory")
    link = msgspec.structs.replace(
        device.link,
        push_bytes_per_s=device.link.push_bytes_per_s * factor,
        pull_bytes_per_s=device.link.pull_bytes_per_s * factor,
    )
    ops = tuple(_retimed(p, device.ops, factor) if p.op in ("push", "pull") else p for p in device.ops)
    return _exchanged(profile, msgspec.structs.replace(device, link=link, ops=ops), profile.host)


def _retimed(point: OpPoint, ops: tuple[OpPoint, ...], factor: float) -> OpPoint:
    alike = [p for p in ops if (p.op, p.peers) == (point.op, point.peers)]
    times = {}
    for field in ("alone_s", "together_s"):
        now, fixed = getattr(point, field), _empty_s(alike, field)
        times[field] = fixed + (now - fixed) / factor if now > fixed else now
    return msgspec.structs.replace(point, **times)


def _empty_s(alike: list[OpPoint], field: str) -> float:
    """Seconds of a push or pull of nothing, by the line through the two smallest that were measured."""
    measured = sorted({p.rows * p.in_features: getattr(p, field) for p in alike}.items())
    if len(measured) < 2:
        return 0.0
    (x0, y0), (x1, y1) = measured[:2]
    return float(min(max(y0 - x0 * (y1 - y0) / (x1 - x0), 0.0), y0))


def with_copy(profile: HardwareProfile, request: Request, name: str) -> MACHINE:
    """One more device like `name`, last in order, on a port of its own; splits by hand give it nothing.

    The other devices' figures stay: what it takes of host memory bandwidth shows only where the profile says how much
    there is.
    """
    device = profile.device(name)
    link = device.link and msgspec.structs.replace(device.link, port="")
    copy = msgspec.structs.replace(device, name=_new_name(profile, name), link=link)
    host = _host_with(profile, device.free_bytes if device.kind == "cpu" else 0)
    wishes: dict[str, object] = {
        n: (*split, 0) for n in ("attention_split", "mlp_split") if (split := getattr(request, n)) is not None
    }
    if name in request.caps:
        wishes["caps"] = request.caps | {copy.name: request.caps[name]}
    grown = msgspec.structs.replace(profile, devices=(*profile.devices, copy), host=host)
    return grown, msgspec.structs.replace(request, **wishes)


def _new_name(profile: HardwareProfile, name: str) -> str:
    """`cuda:0` becomes the number after the highest, `rtx3090` becomes `rtx3090:1`."""
    stem = name.partition(":")[0]
    alike = [d.name for d in profile.devices if d.name.partition(":")[0] == stem]
    numbers = [int(match[1]) for other in alike if (match := re.fullmatch(r"[^:]+:(\d{1,4})", other))]
    return f"{stem}:{max([*numbers, len(alike) - 1]) + 1}"


def _host_with(profile: HardwareProfile, extra_bytes: int) -> Host:
    return msgspec.structs.replace(profile.host, memory_bytes=profile.host.memory_bytes + extra_bytes)


def _exchanged(profile: HardwareProfile, changed: DeviceProfile, host: Host) -> HardwareProfile:
    devices = tuple(changed if d.name == changed.name else d for d in profile.devices)
    return msgspec.structs.replace(profile, devices=devices, host=host)
