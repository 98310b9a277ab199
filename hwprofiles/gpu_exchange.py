"""Exchanges of GPU devices through pinned host memory: one row by words with epochs, many rows in chunks; data checked.

Push and pull are one kernel. A push is priced as that kernel without its pull, a pull as what is left of an exchange.
Parts travel in bfloat16, as they do where every consumer adds its own residual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from statistics import median

import torch

from ..kernels.gpu.bulk import RING, Bulk, new_bulk_slots
from ..kernels.gpu.exchange import Exchange
from ..kernels.gpu.handover import advance
from ..kernels.gpu.host_memory import HostMemory, Layout, Rank
from ..kernels.gpu.slots import Site, host_push, in_order, new_site
from .bench import LIMIT_S, together
from .gpu_timing import LEAST_S, GpuBench, replayed
from .profile import OpPoint

SITES, ROUNDS, VISITS, BULKS = 16, 24, 3, 6
SIZES = [(1, 64), (1, 576), (1, 2048), (1, 4096), (1, 8192), (16, 4096)]  # rows, values a row
BULK_SIZES = [(256, 576), (256, 4096), (256, 8192)]
QUICK_SIZES, QUICK_BULK_SIZES = [(1, 64), (1, 4096), (16, 4096)], [(256, 4096)]
WIRE = torch.bfloat16
WAIT_MS = 3000


@dataclass
class Figures:
    """Of exchanges among GPUs. `flag_s`: one way of a word between two; `residuals_s`: what adding a residual adds, at
    several sizes; `points`: by device.
    """

    points: list[list[OpPoint]]
    flag_s: float = 0.0
    residuals_s: list[float] = field(default_factory=list)

    @property
    def residual_s(self) -> float:
        """Of one row, whatever its width; 0 where nobody exchanged."""
        return max(median(self.residuals_s), LEAST_S) if self.residuals_s else 0.0


class Ring:
    """Exchanges of `rows` rows of `width` values among `members`; parts of members that are no bench lie ready."""

    def __init__(self, benches: Sequence[GpuBench], members: Sequence[int], rows: int, width: int) -> None:
        self.benches, self.members, self.rows, self.width = benches, tuple(sorted(members)), rows, width
        layout = Layout(max(*members, len(benches)) + 1)
        everyone = dict.fromkeys(self.members, width)
        self.sites = [new_site(layout, i, everyone, self.members, "sum", WIRE, rows) for i in range(SITES)]
        self.one_way = {
            m: [new_site(layout, SITES, {m: width}, (self._other(m),), "sum", WIRE, rows)] * SITES for m in self.members
        }
        self.memory = HostMemory(layout, [bench.device.index for bench in benches])
        self.parts = [torch.randn(rows, width) for _ in self.members]

    def _other(self, member: int) -> int:
        return next(m for m in self.members if m != member)

    def expected(self) -> torch.Tensor:
        return in_order([part.to(WIRE).float() for part in self.parts])

    def lie_ready(self, but: int) -> None:
        """Words of all members except `but`, of pass 1."""
        for site in self.sites:
            for member, part in zip(self.members, self.parts, strict=True):
                if member != but:
                    host_push(self.memory, site, member, part, 1)

    def close(self) -> None:
        torch.cuda.synchronize()
        self.memory.close()


class Side:
    """One device's side of a ring: a graph of exchanges, made with all waits switched off."""

    def __init__(self, ring: Ring, device: int, sites: Sequence[Site], adds: bool, goes_on: bool) -> None:
        self.ring, self.device, self.bench = ring, device, ring.benches[device]
        self.bench.worker.submit(partial(self._make, sites, adds, goes_on)).result()

    def _make(self, sites: Sequence[Site], adds: bool, goes_on: bool) -> None:
        ring, bench, shape = self.ring, self.bench, (self.ring.rows, self.ring.width)
        rank = Rank(ring.memory, self.device, bench.device.index, WAIT_MS)
        pulls = self.device in sites[0].consumers
        exchanges = [Exchange(site, rank) for site in sites]
        self.part = ring.parts[ring.members.index(self.device)].to(bench.device.place)
        self.control = torch.tensor([0, 1, ring.rows, 0], dtype=torch.int32, device=bench.device.place)
        self.out, residual, weight = bench.own(*shape), bench.own(*shape), bench.own(ring.width)
        scaled, squares = bench.own(*shape, dtype=torch.bfloat16), bench.own(ring.rows, exchanges[0].programs or 1)
        taken = {"out": self.out, "weight": weight, "scaled": scaled, "squares": squares} if pulls else {}
        if pulls and adds:
            taken["residual"] = residual
        self.kept = (exchanges, taken)

        def launch() -> None:
            for exchange in exchanges:
                exchange(self.control, part=self.part, rows=ring.rows, **taken)
            if goes_on:
                advance(self.control)

        launch()
        bench.worker.stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=bench.worker.stream, capture_error_mode="thread_local"):
            launch()

    def begin_anew(self) -> None:
        """Pass 1, nothing pulled yet."""

        def run() -> None:
            self.control.copy_(torch.tensor([0, 1, self.ring.rows, 0], dtype=torch.int32))
            self.out.fill_(torch.nan)
            self.bench.worker.stream.synchronize()

        self.bench.worker.submit(run).result()

    def run(self) -> list[float]:
        """On the device's thread: seconds of an exchange, one a replay."""
        self.bench.gate.wait(LIMIT_S)
        return [seconds / SITES for seconds in replayed(self.bench, self.graph, ROUNDS, cold=False)]

    def check(self) -> None:
        """ValueError unless the last sum is right, bit for bit."""
        if self.ring.memory.aborted or not torch.equal(self.out.cpu(), self.ring.expected()):
            raise ValueError(
                f"device {self.bench.name} read wrong data through host memory: it cannot take part in a split"
            )


@contextmanager
def _ring(benches: Sequence[GpuBench], members: Sequence[int], rows: int, width: int) -> Iterator[Ring]:
    ring = Ring(benches, members, rows, width)
    try:
        yield ring
    finally:
        ring.memory.abort()
        ring.close()


def _sides(ring: Ring, devices: Sequence[int], sites: Callable[[int], Sequence[Site]], **how: bool) -> list[Side]:
    """Their kernels are loaded while no wait lasts."""
    ring.memory.abort()
    sides = [Side(ring, d, sites(d), **how) for d in devices]
    ring.memory.reset()
    for side in sides:
        side.begin_anew()
    return sides


def together_s(benches: Sequence[GpuBench], members: Sequence[int], rows: int, width: int, adds: bool) -> list[float]:
    """Seconds of an exchange on each of `members`, all at it."""
    with _ring(benches, members, rows, width) as ring:
        sides = _sides(ring, ring.members, lambda _: ring.sites, adds=adds, goes_on=True)
        visits = []
        for _ in range(VISITS):
            with together(benches):
                futures = [side.bench.worker.submit(side.run) for side in sides]
            visits.append([median(future.result()[2:]) for future in futures])
        for side in sides:
            side.check()
        return [median(times) for times in zip(*visits)]


def alone_s(benches: Sequence[GpuBench], device: int, others: int, rows: int, width: int) -> tuple[float, float]:
    """Seconds of pushing only, and of an exchange with `others` whose parts lie ready."""
    members = (device, *(len(benches) + 1 + i for i in range(others)))
    with _ring(benches, members, rows, width) as ring:
        times = []
        for sites in (ring.one_way[device], ring.sites):
            side = _sides(ring, [device], lambda _, sites=sites: sites, adds=True, goes_on=False)[0]  # type: ignore[misc]
            ring.lie_ready(device)
            times.append(median(side.bench.worker.submit(side.run).result()[2:]))
        side.check()
        return times[0], times[1]


def exchange_figures(benches: Sequence[GpuBench], devices: int, quick: bool) -> Figures:
    """Of all GPU devices of a profile of `devices` devices, others of which may be CPUs."""
    figures = Figures([[] for _ in benches])
    if len(benches) > 1:
        figures.flag_s = _flag_s(benches)
    for rows, width in QUICK_SIZES if quick else SIZES:
        for others in range(1, max(devices, 2)):
            _few_rows(benches, figures, others, rows, width)
    for rows, width in QUICK_BULK_SIZES if quick else BULK_SIZES:
        _many_rows(benches, figures, rows, width)
    if len(benches) == 1 and devices > 1:  # a word of the host is seen after as long as it takes to read one
        figures.flag_s = next(point.alone_s for point in figures.points[0] if point.op == "pull")
    return figures


def _flag_s(benches: Sequence[GpuBench]) -> float:
    """What a word that must come first takes beyond one that lies ready: its way, and the wait for the sender."""
    both = together_s(benches, (0, 1), 1, 2, True)
    ready = [alone_s(benches, d, 1, 1, 2)[1] for d in (0, 1)]
    return max(median(both) - median(ready), LEAST_S)


def _few_rows(benches: Sequence[GpuBench], figures: Figures, others: int, rows: int, width: int) -> None:
    """Points of one size and number of members; together where there are as many GPU devices."""
    alone = [alone_s(benches, d, others, rows, width) for d in range(len(benches))]
    whole = [exchange for _, exchange in alone]
    count = len(benches)
    for first in range(0, count if others < count else 0, others + 1):
        members = sorted((first + i) % count for i in range(others + 1))
        for d, seconds in zip(members, together_s(benches, members, rows, width, True), strict=True):
            whole[d] = max(whole[d], seconds)
        if rows == 1 and others == 1:
            plain = together_s(benches, members, rows, width, False)
            figures.residuals_s.append(median(whole[d] for d in members) - median(plain))
    for d, (push_s, ready_s) in enumerate(alone):
        pair = _points(rows * width, others, push_s, (ready_s, whole[d] - figures.flag_s))
        figures.points[d] += pair if others == 1 else pair[1:]


def _points(values: int, others: int, push_s: float, totals_s: tuple[float, float]) -> list[OpPoint]:
    """Of exchanges that take `totals_s`, alone and together, without the flag's way: the push is what it is alone, at
    most half; the pull is the rest.
    """
    pushes = [max(min(push_s, total / 2), LEAST_S) for total in totals_s]
    pulls = [max(total - push, LEAST_S) for total, push in zip(totals_s, pushes)]
    return [
        OpPoint("push", 1, values, values, pushes[0], pushes[1]),
        OpPoint("pull", 1, values, values, pulls[0], pulls[1], peers=others),
    ]


def _many_rows(benches: Sequence[GpuBench], figures: Figures, rows: int, width: int) -> None:
    """Push alone; then all devices at once, where there are several. A single one pulls as fast as it pushes."""
    pushes = [median(_bulk_s(benches, (d, len(benches)), rows, width, (len(benches),))[0]) for d in range(len(benches))]
    whole = [2 * seconds for seconds in pushes]
    if len(benches) > 1:
        every = tuple(range(len(benches)))
        whole = [median(times) for times in _bulk_s(benches, every, rows, width, every)]
    for d, total in enumerate(whole):
        figures.points[d] += _points(rows * width, max(len(benches) - 1, 1), pushes[d], (total, total - figures.flag_s))


def _bulk_s(
    benches: Sequence[GpuBench], members: tuple[int, ...], rows: int, width: int, consumers: tuple[int, ...]
) -> list[list[float]]:
    """Seconds of each of some exchanges in chunks, for each bench among `members`; one that is no consumer only pushes,
    and nobody confirms.
    """
    layout = Layout(max(*members, len(benches)) + 1)
    slots = new_bulk_slots(layout, rows, width)
    memory = HostMemory(layout, [bench.device.index for bench in benches])
    here = [d for d in members if d < len(benches)]
    parts, outs = [torch.randn(rows, width) for _ in here], {}
    total = in_order([part.to(WIRE).float() for part in parts])

    def run(d: int, times: int) -> list[float]:
        bench = benches[d]
        bulk = Bulk(slots, Rank(memory, d, bench.device.index, WAIT_MS))
        part = parts[here.index(d)].to(bench.device.place)
        outs[d] = bench.own(rows, width)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
        widths = dict.fromkeys(here, width)
        bench.worker.stream.synchronize()
        bench.gate.wait(LIMIT_S)
        events[0].record()
        for number, event in enumerate(events[1:], start=1):
            if d not in consumers:
                bulk.reset()
            bulk(number, widths, consumers, "sum", WIRE, rows, part=part, out=outs[d] if d in consumers else None)
            event.record()
        bench.worker.stream.synchronize()
        return [a.elapsed_time(b) * 1e-3 for a, b in pairwise(events)]

    try:
        memory.abort()
        for d in here:
            benches[d].worker.submit(partial(run, d, RING + 1)).result()
        memory.reset()
        with together(benches):
            futures = [benches[d].worker.submit(partial(run, d, BULKS)) for d in here]
        times = [future.result()[1:] for future in futures]
        for d in here:
            if d in consumers and (memory.aborted or not torch.equal(outs[d].cpu(), total)):
                raise ValueError(f"device {benches[d].name} read wrong data through host memory: leave it out")
        return times
    finally:
        memory.abort()
        torch.cuda.synchronize()
        memory.close()
