"""The least that any device sets need, found best first: bounds by closed form, then a linear program for each choice.

Knows in which order choices are looked at, and when to stop. Knows nothing of what makes a stage's time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush
from itertools import product

import msgspec
import numpy as np

from .device_sets import device_sets
from .price import Pricer
from .request import Request
from .set_bounds import SetBounds
from .set_heads import HeadTimes
from .set_memory import SetMemory
from .set_program import Half, SetProgram, node_half
from .set_shares import SetShares
from .set_sources import SetSources
from .set_tables import SetTables
from .stage_costs import StageCosts

MOST_PROGRAMS = 3000
Halves = dict[str, Half]


@dataclass
class SetSearch:
    """Choices of sets for one layer that all layers repeat."""

    pricer: Pricer
    tables: SetTables
    heads: HeadTimes
    memory: SetMemory
    programs: int = 0
    _heap: list[tuple[float, int, int, Halves]] = field(default_factory=list)

    @property
    def sets(self):
        return self.tables.bounds.sources.sets

    @cached_property
    def _edges(self) -> dict[tuple[str, bool], np.ndarray]:
        return {(b, pushed): self.tables.edges(b, pushed) for b in ("attention", "mlp") for pushed in (True, False)}

    @cached_property
    def _only(self) -> np.ndarray:
        """[node, node]: the first is one device, which is among the second's producers."""
        sets = self.sets
        one = (sets.sizes == 1)[:, None] & sets.within
        nothing = np.zeros_like(one)
        return np.block([[one, one], [nothing, nothing]])

    @cached_property
    def totals(self) -> np.ndarray:
        """[attention's node, MLP's node]: seconds of the workload at least."""
        e, layers, only = self._edges, self.pricer.model.layers, self._only
        first = np.where(only.T, e["attention", False], 0)
        attention = np.where(only, e["attention", False], e["attention", True])  # [mlp, attention]
        mlp = np.where(only, e["mlp", False], e["mlp", True])
        del first
        opening = e["attention", False][: self.tables.count].min(axis=0)
        closing = e["mlp", False]
        ends = opening[:, None] + closing + self._head_s[None, :] + self.tables.bounds.shares.embedding_s
        return (layers - 1) * (attention.T + mlp) + ends + self._overheads_s

    @cached_property
    def _head_s(self) -> np.ndarray:
        return self.tables.stage_s(self.tables.bounds.shares.head, False, last=True).min(axis=1)

    @cached_property
    def _overheads_s(self) -> np.ndarray:
        work, pricer = self.pricer.workload, self.pricer
        passes = work.new_tokens + work.batch * sum(c.count for c in pricer.chunks)
        each = np.array([d.step_overhead_s for d in pricer.profile.devices])
        most = np.where(self.sets.held, each, 0).max(axis=1)
        most = np.concatenate([most, most])
        return passes * np.maximum(most[:, None], most[None, :])

    def least_s(self, enough_s: float) -> float:
        """No choice of sets needs less; ends where none below `enough_s` is left."""
        order = np.argsort(self.totals, axis=None, kind="stable")
        flat = self.totals.ravel()[order]
        at, count = 0, 2 * self.tables.count
        number = 0
        while True:
            top = self._heap[0][0] if self._heap else np.inf
            pair = flat[at] if at < len(flat) else np.inf
            if min(top, pair) >= enough_s or self.programs >= MOST_PROGRAMS:
                return float(min(top, pair))
            if pair <= top:
                q, r = divmod(int(order[at]), count)
                at += 1
                for bound, halves in self._choices(q, r):
                    number += 1
                    heappush(self._heap, (bound, number, 0, halves))
                continue
            bound, _, depth, halves = heappop(self._heap)
            if depth == 2:
                heappush(self._heap, (bound, 0, 2, halves))
                self.best = halves
                return bound
            for child in [halves] if depth == 0 else self._by_way(halves):
                number += 1
                heappush(self._heap, (max(bound, self._solved_s(child)), number, depth + 1, child))

    def _choices(self, q: int, r: int) -> Iterator[tuple[float, Halves]]:
        layers = self.pricer.model.layers
        for more_a, attention in self._halves("attention", q, r):
            for more_m, mlp in self._halves("mlp", r, q):
                yield float(self.totals[q, r]) + (layers - 1) * (more_a + more_m), {"attention": attention, "mlp": mlp}

    def _halves(self, block: str, node: int, before: int) -> Iterator[tuple[float, Half]]:
        if node < self.tables.count:
            yield 0.0, node_half(self.tables, node, node)
            return
        seconds = self.tables.column_s(block, node - self.tables.count, not self._only[before, node])[before]
        for members in np.flatnonzero(np.isfinite(seconds)):
            yield float(seconds[members] - seconds.min()), node_half(self.tables, node, int(members))

    def _by_way(self, halves: Halves) -> Iterator[Halves]:
        attention, mlp = halves["attention"], halves["mlp"]
        for a in product(*(([(w,) for w in ways] or [()]) for ways in attention.ways)):
            for m in product(*(([(w,) for w in ways] or [()]) for ways in mlp.ways)):
                yield {"attention": Half(attention.members, attention.writers, a), "mlp": Half(mlp.members, mlp.writers, m)}

    def _solved_s(self, halves: Halves) -> float:
        self.programs += 1
        nodes = [h.producers + (self.tables.count if h.writers >= 0 else 0) for h in (halves["attention"], halves["mlp"])]
        q, r = nodes
        layers, e, only = self.pricer.model.layers, self._edges, self._only
        attention = e["attention", not only[r, q]][r, q]
        mlp = e["mlp", not only[q, r]][q, r]
        rest = self.totals[q, r] - (layers - 1) * (attention + mlp) - self._head_s[r]
        program = SetProgram(self.tables, halves, self.heads, self.memory, layers - 1, float(self._head_s[r]))
        return float(rest + program.least_s())


def set_search(pricer: Pricer, request: Request, caps: tuple[int, ...]) -> SetSearch:
    costs = StageCosts(pricer, request.replicate_kv and pricer.model.group > 1)
    sets = device_sets(pricer.profile, caps)
    bounds = SetBounds(SetShares(costs, sets), SetSources(costs, sets))
    strategies = {b: (w,) if (w := getattr(request, f"{b}_strategy")) else ("row", "column") for b in ("attention", "mlp")}
    return SetSearch(pricer, SetTables(bounds, strategies), HeadTimes(costs, 0), SetMemory(costs, caps))
