"""The links of GPU devices: bytes each way, alone and all at once, and what PCIe has negotiated while they are busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Literal

import torch

from . import nvidia_smi
from .bench import LIMIT_S, together
from .gpu_timing import GpuBench
from .profile import Link
from .units import rate

COPY_BYTES = 64 * 2**20
COPIES = 8
Way = Literal["push", "pull"]
WAYS: tuple[Way, Way] = ("pull", "push")


class Copies:
    """Copies of one device between its memory and pinned host memory, on its streams for them."""

    def __init__(self, bench: GpuBench) -> None:
        self.bench = bench
        self.host = torch.randint(0, 255, (COPY_BYTES,), dtype=torch.uint8).pin_memory()
        self.far = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=bench.device.place)
        torch.cuda.synchronize(bench.device.index)  # streams of parts do not wait for this one

    def start(self, way: Way) -> Future[float]:
        """Seconds of all copies, by the clock of the host: copies of parts of one GPU wait for each other."""
        stream = self.bench.device.push if way == "push" else self.bench.device.pull
        to, source = (self.host, self.far) if way == "push" else (self.far, self.host)

        def run() -> float:
            self.bench.gate.wait(LIMIT_S)
            started = time.perf_counter()
            with torch.cuda.stream(stream):
                for _ in range(COPIES):
                    to.copy_(source, non_blocking=True)
            stream.synchronize()
            return time.perf_counter() - started

        return self.bench.worker.submit(run)

    def start_until(self, stop: threading.Event) -> Future[None]:
        """Keeps the link busy."""

        def run() -> None:
            deadline = time.monotonic() + LIMIT_S
            while not stop.is_set() and time.monotonic() < deadline:
                self.far.copy_(self.host, non_blocking=True)
                self.bench.worker.stream.synchronize()

        return self.bench.worker.submit(run)


def links(benches: Sequence[GpuBench], note: Callable[[str], None]) -> list[Link]:
    """The link of each device, at the rates of all devices at once in one direction; `note` is told of links that run
    below what card and slot can. ValueError where copies come back damaged.
    """
    copies = [Copies(bench) for bench in benches]
    for each in copies:
        sent = each.host.clone()
        alone = {way: COPIES * COPY_BYTES / each.start(way).result() for way in WAYS}
        if not torch.equal(each.host, sent):
            raise ValueError(f"device {each.bench.name}: what was copied there came back changed: leave it out")
        push, pull = (rate(alone[way], "B/s") for way in ("push", "pull"))
        note(f"{each.bench.name}: {push} to the host, {pull} back, alone")
    rates = {way: _all_at_once(copies, way) for way in WAYS}
    slots = _slots_under_load(copies)
    for each, slot in zip(copies, slots, strict=True):
        if slot and (problem := slot.problem()):
            note(f"{each.bench.name} {problem}")
    return [Link(slot.name if slot else "", rates["push"][d], rates["pull"][d]) for d, slot in enumerate(slots)]


def _all_at_once(copies: Sequence[Copies], way: Way) -> list[float]:
    """Bytes a second; parts of one GPU get equal shares of its link."""
    with together([each.bench for each in copies]):
        futures = [each.start(way) for each in copies]
    seconds = [future.result() for future in futures]
    gpus = [each.bench.device.index for each in copies]
    slowest = {gpu: max(s for s, other in zip(seconds, gpus) if other == gpu) for gpu in gpus}
    return [COPIES * COPY_BYTES / slowest[gpu] for gpu in gpus]


def _slots_under_load(copies: Sequence[Copies]) -> list[nvidia_smi.Slot | None]:
    """PCIe generation and lanes while all links are busy: a link at rest is slow to save power."""
    stop = threading.Event()
    futures = [each.start_until(stop) for each in copies]
    try:
        time.sleep(0.2)
        cards = nvidia_smi.cards()
    finally:
        stop.set()
    for future in futures:
        future.result()
    uuids = [str(torch.cuda.get_device_properties(each.bench.device.index).uuid) for each in copies]
    return [cards[uuid].slot if uuid in cards else None for uuid in uuids]
