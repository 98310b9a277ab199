"""The least that any choice of device sets needs, found best first: by closed forms, then by a linear program for each.

Knows in which order choices are looked at, and when to stop. Knows nothing of what makes a stage's time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush
from math import inf

import numpy as np

from .device_sets import device_sets
from .plan import Split
from .price import Pricer
from .request import Request
from .set_bounds import SetBounds
from .set_halves import Halves, with_layer
from .set_heads import HeadTimes
from .set_memory import SetMemory
from .set_program import SetProgram
from .set_shares import SetShares
from .set_sources import SetSources
from .set_tables import SetTables, Strategies
from .set_totals import SetTotals
from .stage_costs import StageCosts

MOST_PROGRAMS = 6000
CLOSED, SOLVED, SETTLED = 0, 1, 2  # how far a choice's bound has been raised: ways of summing open, then each by itself


@dataclass
class SetSearch:
    """Choices of sets for a layer that all layers repeat.

    `found`: the choices with the least bounds that no program raises any more, in order. `programs`: how many were
    solved.
    """

    totals: SetTotals
    heads: HeadTimes
    memory: SetMemory
    programs: int = 0
    found: list[Halves] = field(default_factory=list)
    _open: list[tuple[float, int, int, Halves]] = field(default_factory=list)
    _number: int = 0

    def least_s(self, deadline: float) -> float:
        """No choice of sets needs less. Ends at a choice whose bound is final, after `MOST_PROGRAMS` or at `deadline`
        (of time.perf_counter).
        """
        pairs, pair = self._pairs, next(self._pairs, (inf, 0, 0))
        while True:
            bound_s = min(pair[0], self._open[0][0] if self._open else inf)
            if bound_s == inf or self.programs >= MOST_PROGRAMS or time.perf_counter() > deadline:
                return bound_s
            if pair[0] <= bound_s:
                self._open_pair(*pair)
                pair = next(pairs, (inf, 0, 0))
                continue
            _, _, depth, halves = heappop(self._open)
            if depth == SETTLED:
                self.found.append(halves)
                return bound_s
            for each in [halves] if depth == CLOSED else halves.each_way():
                self._add(max(bound_s, self._solved_s(each)), depth + 1, each)

    @cached_property
    def _pairs(self) -> Iterator[tuple[float, int, int]]:
        """Seconds and nodes of attention and MLP, in order of seconds."""
        each = self.totals.each
        order = np.argsort(each, axis=None, kind="stable")
        return ((float(each.flat[i]), int(i) // each.shape[1], int(i) % each.shape[1]) for i in order)

    def _open_pair(self, bound_s: float, attention: int, mlp: int) -> None:
        for more_s, one in self.totals.halves("attention", attention, mlp):
            for other_s, two in self.totals.halves("mlp", mlp, attention):
                self._add(bound_s + more_s + other_s, CLOSED, Halves(one, two))

    def _add(self, bound_s: float, depth: int, halves: Halves) -> None:
        self._number += 1
        heappush(self._open, (bound_s, self._number, depth, halves))

    def _solved_s(self, halves: Halves) -> float:
        self.programs += 1
        return self.totals.once_s(halves) + self._program(halves).least_s()

    def _program(self, halves: Halves) -> SetProgram:
        head_s = float(self.totals.head_s[self.totals.node(halves.mlp)])
        return SetProgram(self.totals.tables, halves, self.heads, self.memory, self.totals.repeats, head_s)

    def splits(self, start: Split) -> Iterator[Split]:
        """The layers of the choices found, rounded, with the tables of `start`."""
        for halves in self.found:
            program = self._program(halves)
            if 0 < program.least_s() < inf:
                yield with_layer(start, self.memory.costs, *program.shares())


def set_search(pricer: Pricer, request: Request, caps: tuple[int, ...], limited: bool = True) -> SetSearch | None:
    """The search for a machine; None where layers differ or shares are given by hand, for which there is none.

    `limited`: whether memory is a limit.
    """
    if len(set(pricer.model.windows)) > 1 or request.attention_split or request.mlp_split or pricer.model.layers < 2:
        return None
    costs = StageCosts(pricer, request.replicate_kv and pricer.model.group > 1)
    sets, memory = device_sets(pricer.profile, caps), SetMemory(costs, caps, limited)
    wishes = {"attention": request.attention_strategy, "mlp": request.mlp_strategy}
    strategies: Strategies = {block: (wish,) if wish else ("row", "column") for block, wish in wishes.items()}
    tables = SetTables(SetBounds(SetShares(costs, sets), SetSources(costs, sets)), strategies)
    return SetSearch(SetTotals(tables), HeadTimes(costs, 0), memory)
