"""A HardwareProfile as tables for people: one row per device, every figure with its unit. Knows no measuring."""

from __future__ import annotations

from .profile import DeviceProfile, HardwareProfile, Link, OpPoint, Port
from .units import Table, binary_bytes, duration, rate

DEVICE_COLUMNS = ("device", "cores", "free memory", "read alone", "read together", "matrices", "hand-off per pass")
LINK_COLUMNS = ("device", "link", "push", "pull", "port", "push of the port", "pull of the port")
EXCHANGE_COLUMNS = ("device", "push alone", "push together", "pull alone", "pull together")


def profile_tables(profile: HardwareProfile) -> list[Table]:
    """Devices by figure, their links where they have any, then the exchange of one row through host memory, at the
    width nearest to 1,024 values.
    """
    devices = [_device_row(device) for device in profile.devices]
    tables: list[Table] = [(f"Devices of {profile.host.description}", DEVICE_COLUMNS, devices)]
    if any(device.link for device in profile.devices):
        tables.append(("Links to host memory", LINK_COLUMNS, _link_rows(profile)))
    exchanges = [(device.name, *_exchange(device, "push"), *_exchange(device, "pull")) for device in profile.devices]
    if len(exchanges) > 1:
        title = f"One row exchanged through host memory (one flag takes {duration(profile.rendezvous_s)})"
        tables.append((title, EXCHANGE_COLUMNS, exchanges))
    return tables


def _device_row(device: DeviceProfile) -> tuple[str, ...]:
    return (
        device.name,
        ",".join(map(str, device.cores)) or "-",
        binary_bytes(device.free_bytes),
        rate(device.read_bytes_per_s_alone, "B/s"),
        rate(device.read_bytes_per_s, "B/s"),
        rate(device.matmul_flops_per_s, "FLOP/s"),
        duration(device.step_overhead_s),
    )


def _link_rows(profile: HardwareProfile) -> list[tuple[str, ...]]:
    ports = {port.name: _rates(port) for port in profile.host.ports}
    linked = [(device.name, device.link) for device in profile.devices if device.link]
    return [
        (name, link.name, *_rates(link), link.port or "-", *ports.get(link.port, ("-", "-"))) for name, link in linked
    ]


def _rates(path: Link | Port) -> tuple[str, str]:
    return rate(path.push_bytes_per_s, "B/s"), rate(path.pull_bytes_per_s, "B/s")


def _exchange(device: DeviceProfile, op: str) -> tuple[str, str]:
    points = [point for point in device.ops if point.op == op and point.rows == 1]
    if not points:
        return "-", "-"
    point: OpPoint = min(points, key=lambda point: abs(point.in_features - 1024))
    return duration(point.alone_s), duration(point.together_s)
