"""Runs what a step runs, often enough to say how long it takes. Knows clocks and workers, nothing of which steps.

What `run` executes as instructions of a tape is timed as such; products and attention of several rows as torch calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import torch

from ..kernels import staging, tape
from ..kernels.worker import Worker
from .bench import LIMIT_S, open_gate
from .host_memory import last_level_cache_bytes

POOL_FLOATS = 24 * 2**20  # 96 MiB, for every CACHE_BYTES begun of last-level cache: so weights are cold
CACHE_BYTES, MOST_POOLS = 32 * 2**20, 12


class Bench:
    """One CPU device under test: its threads, a pool of memory to take cold operands from, its tape state.

    Jobs wait for `gate` before they begin, so that those of several devices begin together.
    """

    def __init__(self, worker: Worker, gate: threading.Event | None = None) -> None:
        self.worker, self.gate = worker, gate or open_gate()
        pools = min(MOST_POOLS, max(1, -(-last_level_cache_bytes(worker.cores) // CACHE_BYTES)))
        self.pool = worker.submit(lambda: torch.full((pools * POOL_FLOATS,), 0.01)).result()
        self.words = np.zeros(3, dtype=np.int64)
        self._at = 0
        self.read_bytes, self.matmul_flops = 4.0 * self.pool.numel(), 2.0 * 256 * 1024 * 1024
        self._x, self._weight = torch.ones(256, 1024), torch.ones(1024, 1024)

    @property
    def name(self) -> str:
        return self.worker.name

    def start_read(self, calls: int) -> Future[list[float]]:
        """Reading the whole pool."""
        return start_calls(self, self.pool.sum, calls)

    def start_matmul(self, calls: int) -> Future[list[float]]:
        """256 rows with a 1024 x 1024 matrix, float32."""
        return start_calls(self, lambda: self._x @ self._weight, calls)

    def cold(self, *shape: int) -> torch.Tensor:
        """The next float32 operand of the pool; the pool is walked round, so nothing recent comes back."""
        count = int(np.prod(shape))
        if count > len(self.pool):
            raise ValueError(f"operand {shape} is larger than the pool")
        if self._at + count > len(self.pool):
            self._at = 0
        taken = self.pool[self._at : self._at + count]
        self._at += -(-count // 16) * 16
        return taken.view(shape)


def start_tape(
    bench: Bench, instructions: list[tuple[int, ...]], abort_address: int, rows: int = 1, position: int = 0
) -> Future[list[float]]:
    """Runs the instructions on all lanes; the future holds each instruction's seconds."""
    bench.words[tape.POSITION], bench.words[tape.ROWS] = position, rows
    program, lanes = tape.table(instructions), bench.worker.lanes
    arrived = np.zeros((lanes, staging.LINE_BYTES // 8), dtype=np.int64)
    ends_ns, trouble = np.zeros(len(program), dtype=np.int64), np.zeros((lanes, 3), dtype=np.int64)

    def run(lane: int) -> list[float]:
        bench.gate.wait(LIMIT_S)
        started_ns = time.monotonic_ns()
        deadline_ns = started_ns + int(LIMIT_S * 1e9)
        outcome = tape.run(
            program, 0, len(program), bench.words, arrived, lane, abort_address, deadline_ns, ends_ns, trouble[lane]
        )
        if outcome != staging.ARRIVED:
            raise RuntimeError(f"{bench.worker.name} waited {LIMIT_S:.0f} s for another device while being measured")
        return (np.diff(ends_ns, prepend=started_ns) * 1e-9).tolist()

    futures = [bench.worker.submit(lambda lane=lane: run(lane), lane) for lane in range(lanes)]  # type: ignore[misc]
    return futures[0]


def start_calls(bench: Bench, call: Callable[[], object], count: int) -> Future[list[float]]:
    """Calls `call` on the device's thread `count` times; the future holds each call's seconds."""

    def run() -> list[float]:
        seconds = []
        bench.gate.wait(LIMIT_S)
        for _ in range(count):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
        return seconds

    return bench.worker.submit(run)
