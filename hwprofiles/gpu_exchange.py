"""What exchanges cost where GPUs take part: pushes and pulls by size, members and format, and a word's way.

On a GPU push and pull are one kernel, with residual and norm: a push is priced as that kernel without its pull, a pull
as what is left of an exchange. Parts travel in bfloat16 where every consumer adds its own residual, in float32
elsewhere and wherever a CPU takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median

import torch

from .bench import together
from .cell_rings import Benches, open_ring, sides
from .gpu_bulk import bulk_s, pushed_bulk_s
from .gpu_timing import LEAST_S, GpuBench
from .profile import Format, OpPoint

VISITS = 3
SHORT, EXACT = torch.bfloat16, torch.float32
FORMATS: dict[torch.dtype, Format] = {SHORT: "bfloat16", EXACT: "float32"}
SIZES = [(1, 64), (1, 576), (1, 2048), (1, 4096), (1, 8192), (16, 4096)]  # rows, values a row
EXACT_SIZES = [(1, 64), (1, 4096), (16, 4096)]
QUICK_SIZES = [(1, 64), (1, 4096), (16, 4096)]
BULK_SIZES, EXACT_BULK_SIZES = [(32, 4096), (128, 4096), (512, 4096)], [(512, 4096)]  # a width costs compiling
QUICK_BULK_SIZES = [(512, 4096)]


@dataclass
class Figures:
    """`points`: by place among all devices. `flag_s`: one way of a word between
    two devices of which one is a GPU; `residuals_s`: what adding a residual adds to an exchange, at several sizes.
    """

    points: list[list[OpPoint]]
    flag_s: float = 0.0
    residuals_s: list[float] = field(default_factory=list)

    @property
    def residual_s(self) -> float:
        """Of few rows, whatever their width; 0 where nobody exchanged."""
        return max(median(self.residuals_s), LEAST_S) if self.residuals_s else 0.0


def exchange_figures(benches: Benches, quick: bool) -> Figures:
    """Of all devices of a box, at least one of which is a GPU; its CPUs speak the GPUs' words."""
    figures = Figures([[] for _ in benches])
    gpus = [d for d, bench in enumerate(benches) if isinstance(bench, GpuBench)]
    mixed = len(gpus) < len(benches)
    figures.flag_s = _flag_s(benches, gpus)
    for rows, width in QUICK_SIZES if quick else SIZES:
        for others in range(1, max(len(gpus), 2)):
            _few_rows(benches, figures, gpus, others, (rows, width), SHORT)
    for rows, width in EXACT_SIZES:
        for others in range(1, max(len(benches), 2)):
            _few_rows(benches, figures, range(len(benches)) if mixed else gpus, others, (rows, width), EXACT)
    bulk_sizes_of = {SHORT: QUICK_BULK_SIZES} if quick else {SHORT: BULK_SIZES, EXACT: EXACT_BULK_SIZES}
    for wire, bulk_sizes in bulk_sizes_of.items():
        for size in bulk_sizes:
            _many_rows(benches, figures, gpus, size, wire)
    return figures


def together_s(
    benches: Benches, members: Sequence[int], size: tuple[int, int], wire: torch.dtype, adds: bool = True
) -> list[float]:
    """Seconds of an exchange on each of `members`, all at it. With a CPU among them the least counts for all: between
    passes the others wait for its thread to begin anew, which is none of the exchange.
    """
    with open_ring(benches, members, *size, wire) as ring:
        each = sides(ring, ring.members, lambda _: ring.sites, goes_on=True, adds=adds)
        visits = []
        for _ in range(VISITS):
            for side in each:
                side.begin_anew()
            ring.memory.reset()
            with together(benches):
                futures = [side.start() for side in each]
            visits.append([median(future.result()[2:] or [0.0]) for future in futures])
            for side in each:
                ring.check(side.device, side.out)
        seconds = [median(times) for times in zip(*visits)]
    all_gpus = all(isinstance(benches[member], GpuBench) for member in members)
    return seconds if all_gpus else [min(seconds)] * len(seconds)


def alone_s(
    benches: Benches, device: int, others: int, size: tuple[int, int], wire: torch.dtype
) -> tuple[float, float]:
    """Seconds of pushing only, and of an exchange with `others` whose parts lie ready."""
    members = (device, *(len(benches) + 1 + i for i in range(others)))
    with open_ring(benches, members, *size, wire) as ring:
        times = []
        for sites in (ring.one_way[device], ring.sites):
            side = sides(ring, [device], lambda _, sites=sites: sites, goes_on=False)[0]  # type: ignore[misc]
            ring.lie_ready(device)
            times.append(median(side.start().result()[2:] or [0.0]))
        ring.check(device, side.out)
    return times[0], times[1]


def _flag_s(benches: Benches, gpus: Sequence[int]) -> float:
    """What a word that must come first takes beyond one that lies ready: its way, and the wait for the sender. The
    slower of two GPUs and of a GPU and a CPU; 0 for a single device.
    """
    cpus = [d for d in range(len(benches)) if d not in gpus]
    pairs = [*list(combinations(gpus, 2))[:1], *((min(gpus[0], cpu), max(gpus[0], cpu)) for cpu in cpus[:1])]
    found = [LEAST_S] if pairs else [0.0]
    for pair in pairs:
        ready = [alone_s(benches, d, 1, (1, 2), EXACT)[1] for d in pair]
        found.append(median(together_s(benches, pair, (1, 2), EXACT)) - max(ready))
    return max(found)


def _few_rows(
    benches: Benches, figures: Figures, places: Sequence[int], others: int, size: tuple[int, int], wire: torch.dtype
) -> None:
    """Points of one size and number of members of devices at `places`; together where there are as many of them."""
    rows, width = size
    alone = {d: alone_s(benches, d, others, size, wire) for d in places}
    least = {d: exchange for d, (_, exchange) in alone.items()}
    count = len(places)
    for first in range(0, count if others < count else 0, others + 1):
        members = sorted(places[(first + i) % count] for i in range(others + 1))
        seconds = together_s(benches, members, size, wire)
        for d, s in zip(members, seconds, strict=True):
            least[d] = max(least[d], s - figures.flag_s)
        if rows == 1 and others == 1 and wire is SHORT:
            plain = together_s(benches, members, size, wire, adds=False)
            figures.residuals_s.append(median(seconds) - median(plain))
    for d, (push_s, ready_s) in alone.items():
        own = 0 if isinstance(benches[d], GpuBench) else 1  # a CPU counts its own part among those it pulls
        pair = split_points(rows * width, others + own, push_s, (ready_s, least[d]), FORMATS[wire])
        figures.points[d] += pair if others == 1 else pair[1:]


def _many_rows(
    benches: Benches, figures: Figures, gpus: Sequence[int], size: tuple[int, int], wire: torch.dtype
) -> None:
    """Push alone; then two and all GPUs at once, where there are several. A single one pulls as fast as it pushes."""
    rows, width = size
    on_gpus = [bench for bench in benches if isinstance(bench, GpuBench)]
    count = len(on_gpus)
    pushes = [pushed_bulk_s(on_gpus, d, rows, width, wire) for d in range(count)]
    for others in sorted({1, count - 1} - {0}):
        whole = {d: 2 * seconds + figures.flag_s for d, seconds in enumerate(pushes)}
        for first in range(0, count if count > 1 else 0, others + 1):
            members = tuple(sorted((first + i) % count for i in range(others + 1)))
            for d, seconds in zip(members, bulk_s(on_gpus, members, rows, width, wire), strict=True):
                whole[d] = max(seconds, LEAST_S)
        for d, total in whole.items():
            pair = split_points(rows * width, others, pushes[d], (total - figures.flag_s,) * 2, FORMATS[wire])
            figures.points[gpus[d]] += pair if others == 1 else pair[1:]


def split_points(values: int, peers: int, push_s: float, totals_s: tuple[float, float], form: Format) -> list[OpPoint]:
    """Of exchanges that take `totals_s`, alone and together, without the flag's way: the push is what it is alone, at
    most half; the pull is the rest.
    """
    pushes = [max(min(push_s, total / 2), LEAST_S) for total in totals_s]
    pulls = [max(total - push, LEAST_S) for total, push in zip(totals_s, pushes)]
    return [
        OpPoint("push", 1, values, values, pushes[0], pushes[1], format=form),
        OpPoint("pull", 1, values, values, pulls[0], pulls[1], peers=peers, format=form),
    ]
