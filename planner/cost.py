"""What one step costs on one device, from the profile's measured points.

Knows how to interpolate between measurements: efficiency against the speed of light for matrix products and attention,
time itself for the small steps. Knows nothing of the order of steps.
"""

from __future__ import annotations

from bisect import bisect_left
from math import exp, inf, log

from ..hwprofiles.profile import DeviceProfile, Format, HardwareProfile, OpPoint
from .plan import DTYPE_BYTES, CacheDtype, Dtype
from .steps import Kind, Step, moved_bytes
from .weight_formats import DEFAULT_GROUP, grouped_bytes, is_quantised, vocabulary_dtype

_SHORTEST_S = 1e-10
# How far, on log axes, measurements share their noise: a solver exploits every point that was measured luckily.
_SPREAD = {Kind.LINEAR: log(3), Kind.ATTENTION: 1e-6}
_Level = tuple[list[tuple[tuple[float, ...], float]], float]  # log shapes, log efficiencies; fixed seconds
_Line = list[tuple[float, float]]


class CostModel:
    """Times of steps in seconds; steps of equal shape are priced once.

    `group_size`: inputs of a quantised weight's group. ValueError where the profile lacks an operation.
    """

    def __init__(
        self,
        profile: HardwareProfile,
        dtype: Dtype,
        cache_dtype: CacheDtype = "float32",
        group_size: int = DEFAULT_GROUP,
    ) -> None:
        self.profile, self.dtype, self.group_size = profile, dtype, group_size
        self.cache_dtype = cache_dtype
        kinds = [device.kind for device in profile.devices]
        self._forced = [kinds.index("cpu")] if kinds.count("cuda") == 1 and "cpu" in kinds else []
        self._seconds: dict[tuple[object, ...], float] = {}
        self._levels: dict[tuple[int, Kind, bool, Dtype], dict[int, _Level]] = {}
        self._lines: dict[tuple[object, ...], dict[int, _Line]] = {}

    def step_s(self, step: Step) -> float:
        """Seconds of one step; a pull includes one flag's way.

        What was measured, interpolated between; matrix products are averaged over neighbouring shapes too.
        """
        key = (
            step.device,
            step.kind,
            step.rows,
            step.in_features,
            step.out_features,
            step.context,
            len(step.peers),
            step.combine,
            moved_bytes(step) if step.widths else 0,
            step.contended,
            step.role == "lm_head",
            step.extra_bytes,
            self._rivals(step),
            moved_bytes(step) if step.movers else 0,
            self._wire(step),
        )
        found = self._seconds.get(key)
        if found is None:
            found = self._seconds[key] = max(self._price(step), _SHORTEST_S)
        return found

    def _price(self, step: Step) -> float:
        if step.kind in (Kind.LINEAR, Kind.ATTENTION):
            return self._by_efficiency(step)
        if step.kind in (Kind.PUSH, Kind.PULL):
            return self.own_path_s(step) + max(0.0, self.shared_path_s(step) - self.wire_s(step))
        return _surface(self._small(step), step.rows, _width(step))

    def own_path_s(self, step: Step) -> float:
        """Seconds of a push or pull that shares no path with others; a pull includes one flag's way."""
        if step.kind is Kind.PUSH:
            return max(_surface(self._small(step, 0), 1, step.rows * step.in_features), _SHORTEST_S)
        return max(self._pull_s(step) + self.profile.rendezvous_s, _SHORTEST_S)

    def wire_s(self, step: Step) -> float:
        """How much of `own_path_s` the device's link is busy, at its full rate; the rest is latency and the sum."""
        link = self.profile.devices[step.device].link
        if link is None:
            return 0.0
        rate = link.push_bytes_per_s if step.kind is Kind.PUSH else link.pull_bytes_per_s
        return min(moved_bytes(step) / rate, self.own_path_s(step))

    def _by_efficiency(self, step: Step) -> float:
        """Fixed time, plus speed-of-light time over efficiency; the latter interpolated on log axes."""
        device, dtype = self.profile.devices[step.device], self._dtype(step)
        key, each = (step.device, step.kind, step.contended, dtype), self._bytes_each(step.kind, dtype)
        if key not in self._levels:
            points = self._points(device, step.kind, dtype)
            measured = each if step.kind is Kind.LINEAR else float(DTYPE_BYTES[points[0].format])
            self._levels[key] = _levels(points, device, step.contended, measured)
        levels = self._levels[key]
        below, above, share = _bracket(sorted(levels), step.rows)
        shape, spread = _shape(step), _SPREAD[step.kind]
        efficiency, fixed_s = _local_average(levels[below][0], shape, spread), levels[below][1]
        if share:
            efficiency += (_local_average(levels[above][0], shape, spread) - efficiency) * share
            fixed_s += (levels[above][1] - fixed_s) * share
        extra = step.extra_bytes if is_quantised(dtype) else 0
        return fixed_s + _light_s(step, device, step.contended, each, extra) / exp(efficiency)

    def _dtype(self, step: Step) -> Dtype:
        return vocabulary_dtype(self.dtype) if step.role == "lm_head" else self.dtype

    def _bytes_each(self, kind: Kind, dtype: Dtype) -> float:
        """Bytes of one weight (matrix products) or one cached value (attention)."""
        if kind is Kind.ATTENTION:
            return DTYPE_BYTES[self.cache_dtype]
        return grouped_bytes(dtype, self.group_size) if is_quantised(dtype) else DTYPE_BYTES[dtype]

    def _rivals(self, step: Step) -> tuple[int, int]:
        """How many of the step's movers share its device's port, and how many host memory; (0, 0) where unlimited."""
        devices, host = self.profile.devices, self.profile.host
        link = devices[step.device].link
        if not step.movers or link is None:
            return 0, 0
        port = sum(1 for m in step.movers if (other := devices[m].link) and other.port == link.port) if link.port else 0
        return port, sum(1 for m in step.movers if devices[m].link) if host.bytes_per_s else 0

    def shared_path_s(self, step: Step) -> float:
        """Least seconds of a push or pull while all of its movers use their port and host memory alike."""
        on_port, on_host = self._rivals(step)
        if not on_host and not on_port:
            return 0.0
        moved, host = moved_bytes(step), self.profile.host
        seconds = moved * on_host / host.bytes_per_s if on_host else 0.0
        link = self.profile.devices[step.device].link
        for port in host.ports:
            if on_port and link is not None and port.name == link.port:
                rate = port.push_bytes_per_s if step.kind is Kind.PUSH else port.pull_bytes_per_s
                seconds = max(seconds, moved * on_port / rate)
        return seconds

    def _pull_s(self, step: Step) -> float:
        """Linear in the number of slices beyond those measured; a concatenation reads slices of the mean width.

        Over a link only the slices of others count: a device has its own.
        """
        peers = len(step.peers)
        each = step.in_features if step.combine == "sum" else step.in_features / peers
        if self.profile.devices[step.device].link is not None and step.device in step.peers:
            peers = max(peers - 1, 1)
            each = moved_bytes(step) / (4 * step.rows * peers)
        measured = sorted({p.peers for p in self._moves(step)})
        below, above = _neighbours(measured, peers)
        low = _surface(self._small(step, below), 1, step.rows * each)
        if below == above:
            return low
        high = _surface(self._small(step, above), 1, step.rows * each)
        return max(low + (high - low) * (peers - below) / (above - below), low if peers > below else 0.0)

    def _small(self, step: Step, peers: int = -1) -> dict[int, _Line]:
        """By rows, the sorted (width, seconds) of a streaming step; pushes and pulls count their values as one row."""
        key = (step.device, step.kind, peers, step.contended, self._wire(step))
        if key not in self._lines:
            lines: dict[int, dict[float, float]] = {}
            moves = step.kind in (Kind.PUSH, Kind.PULL)
            for p in self._moves(step) if moves else self._points(self.profile.devices[step.device], step.kind):
                if peers > 0 and p.peers != peers:
                    continue
                rows, width = (1, p.rows * p.in_features) if peers >= 0 else (p.rows, _width(p))
                lines.setdefault(rows, {})[width] = p.together_s if step.contended else p.alone_s
            self._lines[key] = {rows: sorted(line.items()) for rows, line in lines.items()}
        return self._lines[key]

    def _wire(self, step: Step) -> Format | None:
        """The format in which a push or pull moves values: GPUs round to 16 bits what is no residual stream, nobody
        rounds what a CPU takes part in. A step that does not say who else takes part gets the shortest that there is;
        but a single GPU exchanges with CPUs only.
        """
        if step.kind not in (Kind.PUSH, Kind.PULL):
            return None
        devices = self.profile.devices
        known = (step.device, *step.movers, *(step.peers if step.movers else self._forced))
        cpus = any(devices[d].kind == "cpu" for d in known)
        return "float32" if step.exact or cpus or self.dtype == "float32" else "bfloat16"

    def _moves(self, step: Step) -> list[OpPoint]:
        """Pushes or pulls of the step's device in its format, or in the one that was measured."""
        points = self._points(self.profile.devices[step.device], step.kind)
        return [p for p in points if p.format == self._wire(step)] or points

    def _points(self, device: DeviceProfile, kind: Kind, dtype: Dtype | None = None) -> list[OpPoint]:
        """Attention over a cache in another format than was measured is priced by that of float32, or what there is."""
        wanted = dtype if kind is Kind.LINEAR else None
        points = [p for p in device.ops if p.op == kind and wanted in (None, p.format)]
        if kind is Kind.ATTENTION:
            of = {form: [p for p in points if p.format == form] for form in (self.cache_dtype, "float32")}
            points = of[self.cache_dtype] or of["float32"] or points
        if not points:
            form = f" in {wanted}" if wanted else ""
            raise ValueError(f"the profile has no {kind} figures{form} for {device.name}: run `tpplan profile` again")
        return points


def _width(step: Step | OpPoint) -> int:
    kind = step.kind if isinstance(step, Step) else step.op
    return step.out_features if kind in (Kind.ROPE, Kind.SWIGLU) else step.in_features


def _shape(step: Step | OpPoint) -> tuple[float, ...]:
    return tuple(log(max(n, 1)) for n in (step.in_features, step.out_features, step.context))


def _light_s(
    step: Step | OpPoint, device: DeviceProfile, together: bool, each_bytes: float, extra_bytes: int = 0
) -> float:
    """The larger of bytes (weights or cache at `each_bytes`, float32 activations) over bandwidth and operations over
    matrix rate.
    """
    kind = step.kind if isinstance(step, Step) else step.op
    wide_in, wide_out = step.in_features, step.out_features
    if kind == Kind.LINEAR:
        read = each_bytes * wide_in * wide_out + extra_bytes + 4 * step.rows * (wide_in + wide_out)
        flops = 2 * step.rows * wide_in * wide_out
    else:
        read = 2 * each_bytes * wide_in * step.context + 8 * step.rows * wide_out
        flops = 4 * step.rows * wide_out * step.context
    rate = device.read_bytes_per_s if together else device.read_bytes_per_s_alone
    return max(read / rate, flops / device.matmul_flops_per_s)


def _levels(points: list[OpPoint], device: DeviceProfile, together: bool, each_bytes: float) -> dict[int, _Level]:
    """By rows: efficiencies of all points, beyond what every call lost to light at least (a launch, on a GPU).

    A matrix product faster than light was lucky.
    """
    timed: dict[int, list[tuple[OpPoint, float, float]]] = {}
    for p in points:
        seconds = max(p.together_s if together else p.alone_s, _SHORTEST_S)
        timed.setdefault(p.rows, []).append((p, seconds, _light_s(p, device, together, each_bytes)))
    levels = {}
    for rows, each in timed.items():
        fixed_s = max(0.0, min(seconds - light_s for _, seconds, light_s in each)) if len(each) > 1 else 0.0
        most = 0.0 if each[0][0].op == "linear" else inf
        found = [(_shape(p), min(log(light_s / (seconds - fixed_s or light_s)), most)) for p, seconds, light_s in each]
        levels[rows] = found, fixed_s
    return levels


def _local_average(points: list[tuple[tuple[float, ...], float]], shape: tuple[float, ...], spread: float) -> float:
    """Shepard's inverse distances to the fourth power, softened: points closer than `spread` count about equally."""
    total = weighted = 0.0
    for at, value in points:
        weight = (sum((a - b) ** 2 for a, b in zip(at, shape)) + spread**2) ** -2
        total += weight
        weighted += weight * value
    return weighted / total


def _bracket(levels: list[int], rows: int) -> tuple[int, int, float]:
    """The measured row counts around `rows`, and how far it is between them on a log axis; the nearest one outside."""
    at = bisect_left(levels, rows)
    if at == len(levels) or at == 0 or levels[at] == rows:
        edge = levels[min(at, len(levels) - 1)]
        return edge, edge, 0.0
    below, above = levels[at - 1], levels[at]
    return below, above, log(rows / below) / log(above / below)


def _neighbours(levels: list[int], value: float) -> tuple[int, int]:
    """The two levels that a line through `value` is drawn by; the same one twice where there is only one."""
    at = min(max(bisect_left(levels, value), 1), len(levels) - 1)
    return (levels[at - 1], levels[at]) if len(levels) > 1 else (levels[0], levels[0])


def _line(points: _Line, width: float) -> float:
    """Piecewise linear; beyond the ends the last slope goes on, never downwards and never below a tenth of the edge."""
    if len(points) == 1:
        return points[0][1] * max(width / points[0][0], 0.1)
    at = min(max(bisect_left(points, (width, 0.0)), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[at - 1], points[at]
    if width < x0:
        return max(y0 - max(y1 - y0, 0.0) * (x0 - width) / (x1 - x0), y0 / 10)
    if width > x1:
        return y1 + max(y1 - y0, 0.0) * (width - x1) / (x1 - x0)
    return y0 + (y1 - y0) * (width - x0) / (x1 - x0)


def _surface(lines: dict[int, _Line], rows: int, width: float) -> float:
    """Linear in rows between the measured row counts, proportional to rows beyond the last."""
    levels = sorted(lines)
    if rows >= levels[-1]:
        return _line(lines[levels[-1]], width) * rows / levels[-1] if rows > levels[-1] else _line(lines[rows], width)
    if rows in lines or rows < levels[0]:
        return _line(lines[max(rows, levels[0])], width)
    at = bisect_left(levels, rows)
    low, high = _line(lines[levels[at - 1]], width), _line(lines[levels[at]], width)
    return low + (high - low) * (rows - levels[at - 1]) / (levels[at] - levels[at - 1])
