"""When each of many jobs begins and ends: a job begins once all that it waits for have ended; their transfers share.

Knows jobs by number, fixed times, bytes and paths. Knows nothing of models or devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from .sharing import Path, Transfers


@dataclass(frozen=True)
class Job:
    """`fixed_s` seconds, then `transfer_bytes` through shared `paths`, of which there is at least one if any bytes."""

    fixed_s: float
    transfer_bytes: float = 0.0
    paths: tuple[Path, ...] = ()

    @property
    def alone_s(self) -> float:
        """How long it takes where nothing else is under way."""
        if not self.transfer_bytes:
            return self.fixed_s
        return self.fixed_s + self.transfer_bytes / min(rate for _, rate in self.paths)


@dataclass(frozen=True)
class Ran:
    """`cause`: the job whose end let this one begin; -1 for those that waited for none."""

    begin_s: float
    end_s: float
    cause: int


def schedule(jobs: Sequence[Job], edges: Iterable[tuple[int, int]]) -> list[Ran]:
    """Runs all `jobs` from moment 0; `edges` are pairs (before, after) and must not form a cycle."""
    waiting, after = _links(len(jobs), edges)
    begins, causes = [0.0] * len(jobs), [-1] * len(jobs)
    ran: dict[int, Ran] = {}
    timers = [(job.fixed_s, i) for i, job in enumerate(jobs) if not waiting[i]]
    heapify(timers)
    transfers = Transfers()
    while timers or transfers:
        now_s, ended = _next(timers, transfers, jobs)
        for i in ended:
            ran[i] = Ran(begins[i], now_s, causes[i])
            for j in after[i]:
                waiting[j] -= 1
                if not waiting[j]:
                    begins[j], causes[j] = now_s, i
                    heappush(timers, (now_s + jobs[j].fixed_s, j))
    assert len(ran) == len(jobs), "the jobs wait for each other in a circle"
    return [ran[i] for i in range(len(jobs))]


def _links(count: int, edges: Iterable[tuple[int, int]]) -> tuple[list[int], list[list[int]]]:
    """For how many others each job waits, and who waits for it."""
    waiting, after = [0] * count, [list[int]() for _ in range(count)]
    for before, then in edges:
        waiting[then] += 1
        after[before].append(then)
    return waiting, after


def _next(timers: list[tuple[float, int]], transfers: Transfers, jobs: Sequence[Job]) -> tuple[float, list[int]]:
    """Goes on to the next moment at which anything changes; returns it and the jobs that end at it."""
    end_s = transfers.next_end_s
    if not timers or end_s <= timers[0][0]:
        return end_s, transfers.ended(end_s)
    now_s, i = heappop(timers)
    if not jobs[i].transfer_bytes:
        return now_s, [i]
    transfers.start(i, jobs[i].transfer_bytes, jobs[i].paths, now_s)
    return now_s, []
