"""Exchanges by cells with epochs, as decode has them, among GPUs and CPUs: the memory, and each device's side of it.

Every device runs what it runs in a plan: a GPU one captured graph of fused exchanges a pass, a CPU its tape. Data is
checked. Knows nothing of what is made of the times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from ..kernels import staging, tape
from ..kernels.gpu.exchange import Exchange
from ..kernels.gpu.handover import advance
from ..kernels.gpu.host_memory import HostMemory, Layout, Rank
from ..kernels.gpu.slots import CELL_BYTES, Site, host_push, in_order, new_site
from . import timing
from .bench import LIMIT_S
from .gpu_timing import GpuBench, replayed

SITES, ROUNDS = 16, 24
WAIT_MS = 3000
Benches = Sequence[GpuBench | timing.Bench]


class Ring:
    """SITES exchanges of `rows` rows of `width` values among `members`, places in `benches`. Members beyond the last
    bench are there only by cells that lie ready.
    """

    def __init__(
        self, benches: Benches, members: Sequence[int], rows: int, width: int, wire: torch.dtype = torch.float32
    ) -> None:
        self.benches, self.members, self.rows, self.width = benches, tuple(sorted(members)), rows, width
        layout = Layout(max(*members, len(benches)) + 1)
        everyone = dict.fromkeys(self.members, width)
        self.sites = [new_site(layout, i, everyone, self.members, "sum", wire, rows) for i in range(SITES)]
        self.one_way = {
            m: [new_site(layout, SITES, {m: width}, (self._other(m),), "sum", wire, rows)] * SITES for m in self.members
        }
        self.memory = HostMemory(layout, [bench.device.index for bench in benches if isinstance(bench, GpuBench)])
        self.parts = [torch.randn(rows, width) for _ in self.members]
        self.expected = in_order([part.to(wire).float() for part in self.parts])

    def _other(self, member: int) -> int:
        return next(m for m in self.members if m != member)

    def part(self, device: int) -> torch.Tensor:
        return self.parts[self.members.index(device)]

    def lie_ready(self, but: int) -> None:
        """Cells of all members except `but`, of pass 1."""
        for site in self.sites:
            for member, part in zip(self.members, self.parts, strict=True):
                if member != but:
                    host_push(self.memory, site, member, part, 1)

    def check(self, device: int, out: torch.Tensor) -> None:
        """ValueError unless the sum that `device` pulled last is right, bit for bit."""
        if self.memory.aborted or not torch.equal(out.cpu(), self.expected):
            raise ValueError(
                f"device {self.benches[device].name} read wrong data through host memory, or none in time: leave it out"
            )


@contextmanager
def open_ring(
    benches: Benches, members: Sequence[int], rows: int, width: int, wire: torch.dtype = torch.float32
) -> Iterator[Ring]:
    """A ring whose memory is given back once all is at rest."""
    ring = Ring(benches, members, rows, width, wire)
    try:
        yield ring
    finally:
        ring.memory.abort()
        for bench in benches:
            if isinstance(bench, GpuBench):
                bench.worker.submit(bench.worker.stream.synchronize).exception()
        ring.memory.close()


class GpuSide:
    """One GPU's side of a ring: a graph of exchanges, made with all waits switched off.

    `adds`: with the device's own residual. `goes_on`: each replay is a pass of its own; else all are pass 1.
    """

    def __init__(self, ring: Ring, device: int, sites: Sequence[Site], adds: bool, goes_on: bool) -> None:
        bench = ring.benches[device]
        assert isinstance(bench, GpuBench)
        self.ring, self.device, self.bench = ring, device, bench
        self.bench.worker.submit(partial(self._make, sites, adds, goes_on)).result()

    def _make(self, sites: Sequence[Site], adds: bool, goes_on: bool) -> None:
        ring, bench, shape = self.ring, self.bench, (self.ring.rows, self.ring.width)
        rank = Rank(ring.memory, self.device, bench.device.index, WAIT_MS)
        pulls = self.device in sites[0].consumers
        exchanges = [Exchange(site, rank) for site in sites]
        self.part = ring.part(self.device).to(bench.device.place)
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

    def start(self) -> Future[list[float]]:
        """Seconds of an exchange, one a pass."""

        def run() -> list[float]:
            self.bench.gate.wait(LIMIT_S)
            return [seconds / SITES for seconds in replayed(self.bench, self.graph, ROUNDS, cold=False)]

        return self.bench.worker.submit(run)


class CpuSide:
    """One CPU device's side of a ring: its tape. `goes_on` as of a GPU's."""

    def __init__(self, ring: Ring, device: int, sites: Sequence[Site], goes_on: bool) -> None:
        bench = ring.benches[device]
        assert isinstance(bench, timing.Bench)
        self.ring, self.device, self.bench = ring, device, bench
        self.part, self.out = ring.part(device).contiguous(), torch.full((ring.rows, ring.width), torch.nan)
        self.kept: list[np.ndarray] = []
        self.program = tape.table([instruction for site in sites for instruction in self._instructions(site)])
        self.epochs = [1 + goes_on * i for i in range(ROUNDS)]

    def _instructions(self, site: Site) -> Iterator[tuple[int, ...]]:
        """As a plan's CPU device is bound: what it moves is float32."""
        width, other_copy = self.ring.width, CELL_BYTES * site.copy_cells
        base = self.ring.memory.address + site.offset
        slots = {p: base + CELL_BYTES * cells for p, cells in zip(site.producers, site.slot_cells, strict=True)}
        yield tape.PUSH_CELLS, self.part.data_ptr(), slots[self.device], width, other_copy, 0, 0, self.ring.rows
        if self.device in site.consumers:
            slots[self.device] = self.part.data_ptr()
            rows = [(int(p != self.device), where, 0, width, width) for p, where in slots.items()]
            self.kept.append(np.array(rows, dtype=np.int64))
            table = self.kept[-1].ctypes.data
            yield tape.PULL_CELLS, self.out.data_ptr(), table, len(rows), tape.SUM, width, other_copy, self.ring.rows

    def begin_anew(self) -> None:
        self.out.fill_(torch.nan)

    def start(self) -> Future[list[float]]:
        """Seconds of an exchange, one a pass, on all lanes of the device."""
        lanes, memory = self.bench.worker.lanes, self.ring.memory
        arrived = np.zeros((lanes, staging.LINE_BYTES // 8), dtype=np.int64)
        states = [np.array([0, self.ring.rows, epoch], dtype=np.int64) for epoch in self.epochs]
        ends_ns, trouble = np.zeros(len(self.program), dtype=np.int64), np.zeros((lanes, 3), dtype=np.int64)

        def run(lane: int) -> list[float]:
            seconds = []
            self.bench.gate.wait(LIMIT_S)
            deadline_ns = time.monotonic_ns() + int(LIMIT_S * 1e9)
            for state in states:
                began = time.perf_counter()
                outcome = tape.run(
                    self.program, 0, len(self.program), state, arrived, lane, memory.address, deadline_ns, ends_ns,
                    trouble[lane],
                )  # fmt: skip
                if outcome != staging.ARRIVED:
                    memory.abort()
                    break
                seconds.append((time.perf_counter() - began) / SITES)
            return seconds or [0.0]

        futures = [self.bench.worker.submit(partial(run, lane), lane) for lane in range(lanes)]
        return futures[0]


def sides(
    ring: Ring, devices: Sequence[int], sites: Callable[[int], Sequence[Site]], goes_on: bool, adds: bool = True
) -> list[GpuSide | CpuSide]:
    """Sides of `devices`, ready to start; kernels are loaded while no wait lasts."""
    ring.memory.abort()
    found: list[GpuSide | CpuSide] = []
    for d in devices:
        if isinstance(ring.benches[d], GpuBench):
            found.append(GpuSide(ring, d, sites(d), adds, goes_on))
        else:
            found.append(CpuSide(ring, d, sites(d), goes_on))
    ring.memory.reset()
    for side in found:
        side.begin_anew()
    return found
