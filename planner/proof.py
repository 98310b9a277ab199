"""What is known of all splits but the one at hand: bounds by device sets, and CP-SAT where those leave too much open.

Knows which of the two is asked when. Knows nothing of how either comes to its bound.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf

import msgspec

from .plan import Split
from .price import Pricer
from .request import Request
from .search import Found, fastest_split
from .set_search import SetSearch, set_search
from .variables import MOST_SET_DEVICES

FEW_DEVICES = 4
LEFT_OPEN = 0.015, 0.02  # by which a split on few devices, or more, may lie above bounds by sets without CP-SAT asked
MOST_SETS = 300  # with more, closed forms for all pairs of them take longer than a search


@dataclass(frozen=True)
class Proof:
    """Bounds for splits of one request, found until `deadline` (of time.perf_counter)."""

    pricer: Pricer
    request: Request
    caps: tuple[int, ...]
    deadline: float

    @cached_property
    def _sets(self) -> SetSearch | None:
        return self._search(limited=True)

    def _search(self, limited: bool) -> SetSearch | None:
        search = set_search(self.pricer, self.request, self.caps, limited)
        few = search is not None and len(search.totals.sets.sets) <= MOST_SETS
        return search if few and time.perf_counter() < self.deadline else None

    @cached_property
    def _least_s(self) -> float:
        return self._sets.least_s(self.deadline) if self._sets else 0.0

    def splits(self, starts: list[Split]) -> Iterator[Split]:
        """Splits over the sets that the bound is met by, with the tables of any of `starts`."""
        if self._sets and self._least_s < inf:
            for start in starts:
                yield from self._sets.splits(start)

    def found(self, near: Split) -> Found:
        """What is known of splits faster than `near`."""
        near_s = self.pricer.split_s(near)
        by_sets = _by_sets(self._sets, self._least_s, near_s)
        if by_sets.proven or (by_sets.sets and len(self.caps) > MOST_SET_DEVICES):
            return by_sets
        found = fastest_split(self.pricer, self.request, self.caps, near, self.deadline)
        if found.bound_s >= by_sets.bound_s:
            return found
        return msgspec.structs.replace(by_sets, split=found.split, proven=found.proven)

    def found_unlimited(self, near: Split) -> Found:
        """The same as if memory were no limit: what is known where layers that are alike are cut differently."""
        search = self._search(limited=False)
        if search is None:
            return fastest_split(self.pricer, self.request, self.caps, near, self.deadline, limited=False)
        return _by_sets(search, search.least_s(self.deadline), self.pricer.split_s(near))


def _by_sets(search: SetSearch | None, least_s: float, near_s: float) -> Found:
    if search is None or not least_s:
        return Found(None, False, 0.0, 0.0)
    bound_s, sets = min(least_s, near_s), search.totals.sets
    left_open = LEFT_OPEN[len(sets.of) > FEW_DEVICES]
    return Found(None, bound_s >= near_s * (1 - left_open), bound_s, 0.0, sets.kinds)
