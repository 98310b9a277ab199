"""How transfers that are under way at the same time share links, ports and host memory: fairly, as a fluid would.

Knows bytes, rates and moments. Knows nothing of steps or devices.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from math import inf

Path = tuple[str, float]
"""Name and bytes/s of something that transfers pass through and share."""


@lru_cache(maxsize=4096)
def fair_rates(transfers: tuple[tuple[Path, ...], ...]) -> tuple[float, ...]:
    """Bytes/s of transfers that pass through the given paths at once, max-min fair.

    Each gets an equal share of its fullest path; what it cannot use there of its other paths is left to their others.
    """
    left = {path: path[1] for paths in transfers for path in paths}
    rates: dict[int, float] = {}
    while len(rates) < len(transfers):
        open_ = [i for i in range(len(transfers)) if i not in rates]
        users = Counter(path for i in open_ for path in transfers[i])
        fullest = min(users, key=lambda path: left[path] / users[path])
        share = left[fullest] / users[fullest]
        for i in open_:
            if fullest in transfers[i]:
                rates[i] = share
                for path in transfers[i]:
                    left[path] -= share
    return tuple(rates[i] for i in range(len(transfers)))


@dataclass
class _Transfer:
    paths: tuple[Path, ...]
    left_bytes: float
    since_s: float
    rate: float = 0.0
    end_s: float = inf

    def go_on(self, now_s: float, rate: float) -> None:
        """From now at another rate."""
        if rate != self.rate:
            self.left_bytes = max(self.left_bytes - self.rate * (now_s - self.since_s), 0.0)
            self.since_s, self.rate, self.end_s = now_s, rate, now_s + self.left_bytes / rate


class Transfers:
    """Those under way, by number. Moments must not go backwards, and none may be passed at which one ends."""

    def __init__(self) -> None:
        self._under_way: dict[int, _Transfer] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def start(self, number: int, size_bytes: float, paths: tuple[Path, ...], now_s: float) -> None:
        self._under_way[number] = _Transfer(paths, size_bytes, now_s)
        self._share(now_s)

    @property
    def next_end_s(self) -> float:
        """When the first of them ends if none starts before; infinity where there are none."""
        return min((t.end_s for t in self._under_way.values()), default=inf)

    def ended(self, now_s: float) -> list[int]:
        """Takes out and returns those that have ended by now."""
        ended = [number for number, t in self._under_way.items() if t.end_s <= now_s]
        for number in ended:
            del self._under_way[number]
        self._share(now_s)
        return ended

    def _share(self, now_s: float) -> None:
        rates = fair_rates(tuple(t.paths for t in self._under_way.values()))
        for t, rate in zip(self._under_way.values(), rates):
            t.go_on(now_s, rate)
