"""Times what a GPU device runs: launches of one row as a captured graph, as decode does, those of many rows one by one.

Weights are cold: a graph walks over more memory than the L2 cache holds, or the cache is overwritten before a replay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import cycle, islice, pairwise
from math import prod
from statistics import median

import torch

from ..executor.gpu.devices import GpuDevice
from .bench import LIMIT_S

POOL_BYTES = 1280 * 2**20
COLD = 3  # times the L2 cache
MOST_LAUNCHES, FEW_LAUNCHES = 192, 24
DIFFERENCE_ROUNDS = 7  # replays of either graph
COLD_ROUNDS = 12  # replays at most, where the cache is flushed before each
MATRIX = 4096
LEAST_S = 1e-8
Launch = Callable[[], object]


class GpuBench:
    """One GPU device under test. `pool`: bfloat16 numbers that operands are taken from, shared by parts of one GPU;
    `flushed`: memory whose rewriting leaves nothing else in the cache.
    """

    def __init__(
        self, device: GpuDevice, gate: threading.Event, pool: torch.Tensor, flushed: torch.Tensor, begin: int
    ) -> None:
        self.device, self.worker, self.gate, self.pool, self.flushed = device, device.worker, gate, pool, flushed
        self.graphs: dict[object, tuple[torch.cuda.CUDAGraph, Sequence[Launch], bool]] = {}
        self._at = begin
        self.read_bytes, self.matmul_flops = float(pool.nbytes // 2), 2.0 * MATRIX**3

    @property
    def name(self) -> str:
        return self.device.name

    def cold(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """The next operand of the pool; the pool is walked round, so nothing recent comes back."""
        count = prod(shape) * dtype.itemsize // 2
        if count > self.pool.numel():
            raise ValueError(f"operand {shape} is larger than the pool")
        if self._at + count > self.pool.numel():
            self._at = 0
        taken = self.pool[self._at : self._at + count]
        self._at += -(-count // 128) * 128
        return taken.view(dtype).view(shape)

    def own(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Memory of its own, to be written."""
        return torch.zeros(shape, dtype=dtype, device=self.device.place)

    def distinct(self, step_bytes: int) -> int:
        """How many instances of a step that reads `step_bytes` cold go into one graph."""
        enough = -(-self.flushed.nbytes // max(step_bytes, 1))
        fit = max(1, self.pool.nbytes // max(step_bytes, 1))
        return min(fit, enough) if FEW_LAUNCHES < enough <= MOST_LAUNCHES else min(fit, FEW_LAUNCHES)

    def buffer(self, rows: int, wide: int, dtype: torch.dtype = torch.float32) -> Callable[[], torch.Tensor]:
        """Memory of its own as programs hold it: a view is made for each launch."""
        flat = self.own(rows * wide, dtype=dtype) + 0.1
        return lambda: flat[: rows * wide].view(rows, wide)

    def start_read(self, calls: int) -> Future[list[float]]:
        """Half of the pool, as float32."""
        half = self.pool[: self.pool.numel() // 2].view(torch.float32)
        out = self.own()
        return start_graph(self, "read", lambda: [lambda: torch.sum(half, 0, out=out)], half.nbytes, calls)

    def start_matmul(self, calls: int) -> Future[list[float]]:
        """bfloat16, square."""

        def launches() -> list[Launch]:
            x, weight = self.cold(MATRIX, MATRIX), self.cold(MATRIX, MATRIX)
            out = self.own(MATRIX, MATRIX, dtype=torch.bfloat16)
            return [lambda: torch.mm(x, weight, out=out)] * 2

        return start_eager(self, launches, calls)


def gpu_benches(devices: Sequence[GpuDevice], gate: threading.Event) -> list[GpuBench]:
    """One of each device; parts of one GPU share its pool and walk it from different places on."""
    pools: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for device in devices:
        if device.index not in pools:
            size = min(POOL_BYTES, device.free_bytes // 4)
            pool = torch.empty(size // 2, dtype=torch.bfloat16, device=device.place).normal_(0.0, 0.02)
            cache = torch.cuda.get_device_properties(device.index).L2_cache_size
            pools[device.index] = pool, torch.zeros(COLD * cache // 4, dtype=torch.int32, device=device.place)
            torch.cuda.synchronize(device.index)
    return [
        GpuBench(device, gate, *pools[device.index], begin=pools[device.index][0].numel() // len(devices) * at)
        for at, device in enumerate(devices)
    ]


def start_graph(
    bench: GpuBench, key: object, launches: Callable[[], Sequence[Launch]], step_bytes: int, calls: int
) -> Future[list[float]]:
    """Replays of a graph of `launches()`, made once for `key`; the future holds seconds of a launch, one a replay."""

    def run() -> list[float]:
        graph, each, cold = captured(bench, key, launches, step_bytes)
        bench.gate.wait(LIMIT_S)
        rounds = max(3, -(-calls // len(each)))
        rounds = min(rounds, COLD_ROUNDS) if cold else rounds
        return [seconds / len(each) for seconds in replayed(bench, graph, rounds, cold)]

    return bench.worker.submit(run)


def start_difference(
    bench: GpuBench, key: object, more: Callable[[], Sequence[Launch]], less: Callable[[], Sequence[Launch]],
    step_bytes: int,
) -> Future[list[float]]:  # fmt: skip
    """What a launch of `more` takes beyond one of `less`, or next to nothing: the price of what is fused."""

    def run() -> list[float]:
        graphs = [captured(bench, (key, which), each, step_bytes) for which, each in (("+", more), ("-", less))]
        bench.gate.wait(LIMIT_S)
        count = len(graphs[0][1])
        longer, shorter = (replayed(bench, graph, DIFFERENCE_ROUNDS, cold) for graph, _, cold in graphs)
        return [max((median(longer) - median(shorter)) / count, LEAST_S)]

    return bench.worker.submit(run)


def captured(
    bench: GpuBench, key: object, launches: Callable[[], Sequence[Launch]], step_bytes: int
) -> tuple[torch.cuda.CUDAGraph, Sequence[Launch], bool]:
    """On the device's thread: the graph, its launches, which hold what it reads and writes, and whether the cache must
    be overwritten before a replay: where weights are read, but fewer than would push out all others.
    """
    if key not in bench.graphs:
        each = launches()
        each[0]()
        bench.worker.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=bench.worker.stream, capture_error_mode="thread_local"):
            for launch in each:
                launch()
        bench.graphs[key] = graph, each, 0 < len(each) * step_bytes < bench.flushed.nbytes
    return bench.graphs[key]


def replayed(bench: GpuBench, graph: torch.cuda.CUDAGraph, times: int, cold: bool) -> list[float]:
    """Seconds of each replay by events, on the device's thread."""
    pairs = []
    for _ in range(times):
        if cold:
            bench.flushed.add_(1)
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        graph.replay()
        ended.record()
        pairs.append((begun, ended))
    bench.worker.stream.synchronize()
    return [begun.elapsed_time(ended) * 1e-3 for begun, ended in pairs]


def start_eager(bench: GpuBench, launches: Callable[[], Sequence[Launch]], calls: int) -> Future[list[float]]:
    """Launches one after the other, as prefill does them: the time of the host counts where it is the longer one. The
    future holds seconds of a launch, one a round over some of them; the host runs ahead, so a round hides its hiccups.
    """

    def run() -> list[float]:
        each = launches()
        each[0]()
        bench.worker.stream.synchronize()
        bench.gate.wait(LIMIT_S)
        length = min(len(each), -(-calls // 3))
        events = [torch.cuda.Event(enable_timing=True) for _ in range(max(3, -(-calls // length)) + 1)]
        turns = cycle(each)
        events[0].record()
        for event in events[1:]:
            for launch in islice(turns, length):
                launch()
            event.record()
        bench.worker.stream.synchronize()
        return [a.elapsed_time(b) * 1e-3 / length for a, b in pairwise(events)]

    return bench.worker.submit(run)
