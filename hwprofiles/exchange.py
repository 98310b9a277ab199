"""Push, pull and rendezvous through the host slots, each device alone and all together, with the data checked.

Uses the words, slots and instructions that `run` uses. Knows nothing of which step needs them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import combinations
from statistics import median

import numpy as np
import torch

from ..kernels import staging, tape
from .bench import LIMIT_S, typical_s
from .timing import Bench, start_tape

ROUNDS = 60
SIZES = [64, 576, 2048, 8192, 32768, 147456]  # float32 values: one token's hidden state up to a prefill chunk's
QUICK_SIZES = [64, 576, 4096, 147456]


class Exchange:
    """All-reduce sites among all devices, `values` wide: what a row-strategy block ends in."""

    def __init__(self, benches: Sequence[Bench], values: int) -> None:
        self.benches, self.values = benches, values
        self.staging = staging.Staging([values] * len(benches))
        self.parts = [torch.rand(values, dtype=torch.float64).float() + d for d in range(len(benches))]
        self.sums = [torch.full((values,), torch.nan) for _ in benches]
        self.kept: list[np.ndarray] = []

    def instructions(self, device: int, rounds: int, remote: Sequence[int]) -> list[tuple[int, ...]]:
        """`rounds` pushes and pulls of `device`, summing its part and those of `remote` (a device may come twice)."""
        tape_rows: list[tuple[int, ...]] = []
        others = [d for d in range(len(self.benches)) if d != device]
        words = self._keep([self.staging.pulled_address(d) for d in others])
        mine, out = self.parts[device].data_ptr(), self.sums[device].data_ptr()
        flags = self.staging.pushed_address(device), self.staging.pulled_address(device)
        for site in range(rounds):
            slot = self.staging.slot(site, device).data_ptr()
            before = site - staging.SLOT_RING if remote and site >= staging.SLOT_RING else -1
            tape_rows.append(
                (tape.PUSH, mine, slot, self.values, site, flags[0], before, words.ctypes.data, len(others))
            )
            parts = self._keep([self._part(device, p, site) for p in sorted([device, *remote])])
            tape_rows.append((tape.PULL, out, site, parts.ctypes.data, len(parts), tape.SUM, flags[1], self.values))
        return tape_rows

    def _part(self, device: int, producer: int, site: int) -> tuple[int, int, int]:
        if producer == device:
            return 0, self.parts[device].data_ptr(), self.values
        return self.staging.pushed_address(producer), self.staging.slot(site, producer).data_ptr(), self.values

    def _keep(self, rows: Sequence[object]) -> np.ndarray:
        self.kept.append(np.array(rows, dtype=np.int64))
        return self.kept[-1]

    def _forget(self) -> None:
        """Nothing of an earlier run may pass for what this one moves."""
        self.staging.reset()
        for memory in (*self.staging.slots, *self.sums):
            memory.fill_(torch.nan)

    def together(self, extra: int = 0) -> list[tuple[float, float]]:
        """Seconds of (push, pull) per device, all of them exchanging; `extra` more slices are read in each pull."""
        self._forget()
        futures: list[Future[list[float]]] = []
        for d, bench in enumerate(self.benches):
            bench.words[tape.BASE] = 1
            remote = [p for p in range(len(self.benches)) if p != d]
            remote += (remote or [d])[:1] * extra
            futures.append(start_tape(bench, self.instructions(d, ROUNDS, remote), self.staging.abort_address))
        times = [(typical_s(s[0::2]), typical_s(s[1::2])) for s in (future.result(LIMIT_S) for future in futures)]
        self._check(extra)
        return times

    def alone(self, device: int, extra: int = 0) -> tuple[float, float]:
        """Seconds of (push, pull) of one device while the others rest and their parts lie ready."""
        self._forget()
        others = [d for d in range(len(self.benches)) if d != device]
        for other in others:
            staging.signal(self.staging.pushed_address(other), ROUNDS + 1)
            staging.signal(self.staging.pulled_address(other), ROUNDS + 1)
            for ring in range(staging.SLOT_RING):
                self.staging.slot(ring, other).copy_(self.parts[other])
        bench = self.benches[device]
        bench.words[tape.BASE] = 1
        remote = others + (others or [device])[:1] * extra
        instructions = self.instructions(device, ROUNDS, remote)
        samples = start_tape(bench, instructions, self.staging.abort_address).result(LIMIT_S)
        self._check(extra, [device])
        return typical_s(samples[0::2]), typical_s(samples[1::2])

    def _check(self, extra: int, devices: Sequence[int] | None = None) -> None:
        """Each device must have read, bit for bit, the sum in device order; ValueError names one that did not."""
        for d in range(len(self.benches)) if devices is None else devices:
            others = [p for p in range(len(self.benches)) if p != d]
            order = sorted([d, *others, *((others or [d])[:1] * extra)])
            expected = self.parts[order[0]].clone()
            for p in order[1:]:
                expected += self.parts[p]
            if not torch.equal(self.sums[d], expected):
                name = self.benches[d].worker.name
                raise ValueError(f"device {name} read wrong data through host memory: it cannot take part in a split")


def rendezvous_s(benches: Sequence[Bench]) -> float:
    """Median over pairs of the one-way time of a flag, in seconds; 0 for one device."""
    times = []
    for a, b in combinations(range(len(benches)), 2):
        shared = staging.Staging([1, 1])
        words = shared.pushed_address(0), shared.pushed_address(1)
        deadline_ns = time.monotonic_ns() + int(LIMIT_S * 1e9)

        def probe(mine: int, theirs: int, shared: staging.Staging = shared, deadline_ns: int = deadline_ns) -> float:
            started = time.perf_counter()
            for first in (1, 1 + ROUNDS):  # the second half, after both have surely begun
                started = time.perf_counter()
                outcome = staging.exchange_probe(mine, theirs, shared.abort_address, first, ROUNDS, deadline_ns)
            if outcome != staging.ARRIVED:
                raise ValueError("two devices could not exchange flags through host memory")
            return (time.perf_counter() - started) / ROUNDS

        pair = [benches[a].worker.submit(lambda: probe(*words)), benches[b].worker.submit(lambda: probe(*words[::-1]))]  # noqa: B023
        times.append(median(future.result(LIMIT_S) for future in pair))
    return median(times) if times else 0.0
