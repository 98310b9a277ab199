"""A HardwareProfile as tables for people: one row per device, every figure with its unit. Knows no measuring."""

from __future__ import annotations

from .profile import DeviceProfile, HardwareProfile, OpPoint
from .units import Table, binary_bytes, duration, rate

DEVICE_COLUMNS = ("device", "cores", "free memory", "read alone", "read together", "matrices", "hand-off per pass")
EXCHANGE_COLUMNS = ("device", "push alone", "push together", "pull alone", "pull together")


def profile_tables(profile: HardwareProfile) -> list[Table]:
    """Devices by figure, then the exchange of one row through host memory, at the width nearest to 1,024 values."""
    devices = [_device_row(device) for device in profile.devices]
    tables: list[Table] = [(f"Devices of {profile.host.description}", DEVICE_COLUMNS, devices)]
    exchanges = [(device.name, *_exchange(device, "push"), *_exchange(device, "pull")) for device in profile.devices]
    if len(exchanges) > 1:
        title = f"One row exchanged through host memory (one flag takes {duration(profile.rendezvous_s)})"
        tables.append((title, EXCHANGE_COLUMNS, exchanges))
    return tables


def _device_row(device: DeviceProfile) -> tuple[str, ...]:
    return (
        device.name,
        ",".join(map(str, device.cores)),
        binary_bytes(device.free_bytes),
        rate(device.read_bytes_per_s_alone, "B/s"),
        rate(device.read_bytes_per_s, "B/s"),
        rate(device.matmul_flops_per_s, "FLOP/s"),
        duration(device.step_overhead_s),
    )


def _exchange(device: DeviceProfile, op: str) -> tuple[str, str]:
    points = [point for point in device.ops if point.op == op and point.rows == 1]
    if not points:
        return "-", "-"
    point: OpPoint = min(points, key=lambda point: abs(point.in_features - 1024))
    return duration(point.alone_s), duration(point.together_s)
