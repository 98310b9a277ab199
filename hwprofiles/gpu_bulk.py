"""Exchanges of many rows among GPUs, in chunks with flags, as prefill has them; data checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median

import torch

from ..kernels.gpu.bulk import RING, Bulk, new_bulk_slots
from ..kernels.gpu.host_memory import HostMemory, Layout, Rank
from ..kernels.gpu.slots import in_order
from .bench import LIMIT_S, together
from .cell_rings import WAIT_MS
from .gpu_timing import GpuBench

TIMES = 8


def pushed_bulk_s(benches: Sequence[GpuBench], device: int, rows: int, width: int, wire: torch.dtype) -> float:
    """Seconds of a push that nobody pulls or confirms."""
    return _BulkRun(benches, (device,), rows, width, wire, consumers=(len(benches),)).seconds()[0]


def bulk_s(
    benches: Sequence[GpuBench], members: tuple[int, ...], rows: int, width: int, wire: torch.dtype
) -> list[float]:
    """Seconds of an exchange on each of `members`, each of which takes the sum and adds its residual."""
    return _BulkRun(benches, members, rows, width, wire, consumers=members).seconds()


@dataclass
class _Side:
    """One device's: kept from warming up on, since it then knows its compiled kernels, as in a plan."""

    bulk: Bulk
    part: torch.Tensor
    out: torch.Tensor
    residual: torch.Tensor


class _BulkRun:
    """Some exchanges one after the other, `producers` all at once."""

    def __init__(
        self,
        benches: Sequence[GpuBench],
        producers: tuple[int, ...],
        rows: int,
        width: int,
        wire: torch.dtype,
        consumers: tuple[int, ...],
    ) -> None:
        self.producers, self.consumers, self.shape, self.wire = producers, consumers, (rows, width), wire
        self.benches = {d: benches[d] for d in producers}
        layout = Layout(len(benches) + 1)
        self.slots = new_bulk_slots(layout, rows, width)
        self.memory = HostMemory(layout, [bench.device.index for bench in benches])
        self.parts = {d: torch.randn(rows, width) for d in producers}
        self.sides: dict[int, _Side] = {}

    def seconds(self) -> list[float]:
        """Medians by producer; kernels are loaded while no wait lasts. ValueError where data is wrong."""
        try:
            self.memory.abort()
            for d, bench in self.benches.items():
                self.sides[d] = bench.worker.submit(partial(self._side, d)).result()
                bench.worker.submit(partial(self._run, d, 2 * RING)).result()
            self.memory.reset()
            for d, bench in self.benches.items():
                bench.worker.submit(partial(self._begin_anew, d)).result()
            with together(list(self.benches.values())):
                futures = [bench.worker.submit(partial(self._run, d, TIMES)) for d, bench in self.benches.items()]
            times = [median(future.result()[1:]) for future in futures]
            self._check()
            return times
        finally:
            self.memory.abort()
            for bench in self.benches.values():
                bench.worker.submit(bench.worker.stream.synchronize).exception()
            self.memory.close()

    def _side(self, d: int) -> _Side:
        """On the device's thread."""
        bench = self.benches[d]
        bulk = Bulk(self.slots, Rank(self.memory, d, bench.device.index, WAIT_MS))
        part = self.parts[d].to(bench.device.place)
        return _Side(bulk, part, bench.own(*self.shape), bench.own(*self.shape))

    def _begin_anew(self, d: int) -> None:
        side = self.sides[d]
        side.bulk.reset()
        side.out.fill_(torch.nan)
        self.benches[d].worker.stream.synchronize()

    def _run(self, d: int, times: int) -> list[float]:
        """On the device's thread. Who only pushes forgets its readers, which are not there."""
        bench, side, pulls = self.benches[d], self.sides[d], d in self.consumers
        out, residual = (side.out, side.residual) if pulls else (None, None)
        widths = dict.fromkeys(self.producers, self.shape[1])
        events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
        bench.worker.stream.synchronize()
        bench.gate.wait(LIMIT_S)
        events[0].record()
        for number, event in enumerate(events[1:], start=1):
            if not pulls:
                side.bulk.readers.clear()
            side.bulk(number, widths, self.consumers, "sum", self.wire, self.shape[0], side.part, out, residual)
            event.record()
        bench.worker.stream.synchronize()
        return [a.elapsed_time(b) * 1e-3 for a, b in pairwise(events)]

    def _check(self) -> None:
        total = in_order([part.to(self.wire).float() for part in self.parts.values()])
        for d, bench in self.benches.items():
            if d in self.consumers and (self.memory.aborted or not torch.equal(self.sides[d].out.cpu(), total)):
                raise ValueError(
                    f"device {bench.name} read wrong data through host memory, or none in time: leave it out"
                )
