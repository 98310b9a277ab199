"""What measuring needs to know of a device under test, of whatever kind. Knows no kernels and no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from .profile import Format, Op

LIMIT_S = 20.0


class Bench(Protocol):
    """One device under test. Its jobs wait for `gate` before they begin, so that those of several begin together.

    `start_read` and `start_matmul` repeat a pass over `read_bytes` of memory and a product of `matmul_flops`.
    """

    gate: threading.Event
    read_bytes: float
    matmul_flops: float

    @property
    def name(self) -> str: ...

    def start_read(self, calls: int) -> Future[list[float]]: ...

    def start_matmul(self, calls: int) -> Future[list[float]]: ...


@dataclass(frozen=True)
class Probe:
    """`start(bench, calls)` runs `calls` instances, or some more, and gives their seconds, the first included."""

    op: Op
    rows: int
    in_features: int
    out_features: int
    start: Callable[[Any, int], Future[list[float]]]
    format: Format = "float32"
    context: int = 0


def open_gate() -> threading.Event:
    """A gate for the jobs of several devices; `together` closes it while they are being started."""
    gate = threading.Event()
    gate.set()
    return gate


@contextmanager
def together(benches: Sequence[Bench]) -> Iterator[None]:
    """Jobs started inside begin when it ends."""
    gate = benches[0].gate
    gate.clear()
    try:
        yield
    finally:
        gate.set()


def typical_s(samples: list[float]) -> float:
    """Median without the first sample, which pays for cold code."""
    return median(samples[1:] or samples)
