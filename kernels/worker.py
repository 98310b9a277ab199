"""The threads of one CPU device: a lane per core, each pinned to the device's cores, taking jobs one at a time.

Knows threads and cores. Knows nothing of models.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class Worker:
    """`lanes` threads for device `name`; torch operations of lane 0 use as many threads as the device has cores."""

    def __init__(self, name: str, cores: tuple[int, ...]) -> None:
        self.name, self.cores = name, cores
        self._threads = [
            ThreadPoolExecutor(1, f"{name} lane {lane}", initializer=self._settle) for lane in range(len(cores))
        ]

    @property
    def lanes(self) -> int:
        return len(self.cores)

    def _settle(self) -> None:
        os.sched_setaffinity(0, self.cores)
        torch.set_num_threads(len(self.cores))

    def submit(self, job: Callable[[], T], lane: int = 0) -> Future[T]:
        """Runs `job` on `lane`, without autograd."""

        def run() -> T:
            with torch.inference_mode():
                return job()

        return self._threads[lane].submit(run)

    def close(self) -> None:
        """Ends the threads after the job at hand."""
        for thread in self._threads:
            thread.shutdown(wait=True, cancel_futures=True)
