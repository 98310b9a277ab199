"""Lower bounds of a stage for every set of producers before it and every set of members, by closed form.

A stage lasts at least as long as any average of its devices' times. Weighted by the pace of each device, the average
does not depend on how units are shared: that is a bound for all shares at once, exact where all are equally busy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .set_shares import Figures, SetShares
from .set_sources import SetSources, Sources

LEAST_S = 1e-15  # a unit, on devices that have no more to do for it


@dataclass(frozen=True)
class Paces:
    """Of the members of every set, for one phase, `[set, device]`: seconds a unit, and seconds whatever the share."""

    unit_s: np.ndarray
    base_s: np.ndarray


@dataclass(frozen=True)
class Weights:
    """Averages over the members of every set: `each[phase][set, device]` of the devices (each set's add up to 1), and
    what the average gains by a unit more, whoever does it: in both phases together.
    """

    each: tuple[np.ndarray, np.ndarray]
    unit_s: np.ndarray


@dataclass(frozen=True)
class SetBounds:
    """`[producers, members]` arrays in seconds; phase 0 is decode, 1 prefill, 2 prefill's last chunk."""

    shares: SetShares
    sources: SetSources

    @cached_property
    def pull_extra_s(self) -> np.ndarray:
        return self.sources.extra_s(self.sources.sets.held, push=False)

    @cached_property
    def spared_extra_s(self) -> np.ndarray:
        """Where one device of the set pulls nothing."""
        return self.sources.extra_s(self.sources.sets.held, push=False, fewer=1)

    @cached_property
    def push_extra_s(self) -> np.ndarray:
        """CPU devices push nothing where they add up themselves, so they do not count."""
        cpu = np.array([d.kind == "cpu" for d in self.shares.costs.pricer.profile.devices])
        return np.where(cpu, 0.0, self.sources.extra_s(self.sources.sets.held & ~cpu, push=True))

    def stage_s(self, figures: Figures, ways: list[Sources], pushed: bool, last: bool = False) -> np.ndarray:
        """The members of each set pull what each set of producers has, the fastest way, do their shares, and push.

        `last`: only the last chunk is pulled and worked on, in prefill.
        """
        paces = [self._paces(figures, phase, pushed) for phase in (0, 1)]
        apart, joint = _apart(paces, self.sources.sets.held), _joint(paces, self.sources.sets.held)
        total, together = 0.0, joint.unit_s * figures.units
        for phase, at in enumerate((0, 2 if last else 1)):
            averages = [self._average_s(paces[phase], way, at, joint.each[phase]) for way in ways]
            together = together + np.minimum.reduce(averages)
            total = total + np.minimum.reduce(
                [self._phase_s(figures, way, (phase, at), pushed, paces[phase], apart[phase]) for way in ways]
            )
        several = self.sources.sets.sizes > 1
        return np.where(several, np.maximum(total, together), total)

    def second_s(self, figures: Figures, gather: Sources, width: int, pushed: bool) -> np.ndarray:
        """`[members, writers]` of a column block: writers gather `width` values, then write; infinite where a writer is
        no member, or the only member.
        """
        sets, paces = self.sources.sets, [self._paces(figures, phase, pushed) for phase in (0, 1)]
        apart, joint = _apart(paces, sets.held), _joint(paces, sets.held)
        both = Weights((apart[0].each[0], apart[1].each[0]), apart[0].unit_s + apart[1].unit_s)
        found = np.zeros((len(sets.sets),) * 2)
        for weights in (both, joint):
            averages = [self._gathered_s(paces[p], gather, width, p, weights.each[p]) for p in (0, 1)]
            found = np.maximum(found, weights.unit_s * figures.units + sum(averages))
        return np.where(sets.within.T & (sets.sizes > 1)[:, None], found, np.inf)

    def _paces(self, figures: Figures, phase: int, pushed: bool) -> Paces:
        sets, count = self.sources.sets, len(self.sources.sets.of)
        lines = figures.pushed if pushed else figures.bare
        best = [[line.best(figures.units / k) for line in lines] for k in range(1, count + 1)]
        slopes, bases = (np.array([[each[i][phase] for each in row] for row in best])[sets.sizes - 1] for i in (0, 1))
        extra = self.push_extra_s * self.sources.row_bytes[phase] * pushed
        first = sets.held & (np.cumsum(sets.held, axis=1) == 1)
        base_s = bases + extra * figures.fixed_push + first * figures.residual[:, phase]
        return Paces(np.maximum(slopes + extra * figures.unit_push, LEAST_S), base_s)

    def _average_s(self, paces: Paces, source: Sources, at: int, weights: np.ndarray) -> np.ndarray:
        """All of an average but the units."""
        row_bytes, few = self.sources.row_bytes[at], (self.sources.sets.sizes == 1)[:, None]
        extra = [source.moved @ (weights * each * row_bytes).T for each in (self.pull_extra_s, self.spared_extra_s)]
        pulled = source.pull_s[:, :, at] @ weights.T + np.where(few, extra[1], extra[0])
        own = self._own_s(source, self.shares.costs.pricer.model.hidden, at, weights)
        return np.asarray((weights * paces.base_s).sum(axis=1) + pulled - own + source.beyond_s[:, at, None])

    def _gathered_s(self, paces: Paces, gather: Sources, width: int, at: int, weights: np.ndarray) -> np.ndarray:
        pulled = (weights * (paces.base_s + self.pull_extra_s * self.sources.row_bytes[at] * width)).sum(axis=1)
        return np.asarray(pulled + gather.pull_s[:, :, at] @ weights.T - self._own_s(gather, width, at, weights))

    def _own_s(self, source: Sources, width: int, at: int, weights: np.ndarray) -> np.ndarray | float:
        """What is saved of an average at most, where members wrote some of `width` values themselves."""
        if not source.saved_s.any():
            return 0.0
        held = self.sources.sets.held
        most = np.zeros((len(held), len(held)))
        for d in range(held.shape[1]):
            saved = source.saved_s[:, d, at, None]
            each = (saved + self.pull_extra_s[:, d] * self.sources.row_bytes[at]) * weights[:, d]
            most = np.maximum(most, np.where(saved > 0, each, 0.0))
        return most * width

    def _phase_s(
        self, figures: Figures, source: Sources, phases: tuple[int, int], pushed: bool, paces: Paces, weights: Weights
    ) -> np.ndarray:
        """One phase by itself: no average, no member with the least share, and no device alone is faster."""
        at = phases[1]
        found = weights.unit_s * figures.units + self._average_s(paces, source, at, weights.each[0])
        held = self.sources.sets.held
        for d in range(held.shape[1]):
            own = paces.base_s[:, d] + figures.dimension.least * paces.unit_s[:, d]
            pull = np.where(source.saved_s[:, d, at] > 0, 0.0, source.pull_s[:, d, at]) + source.beyond_s[:, at]
            found = np.maximum(found, np.where(held[:, d], pull[:, None] + own, 0.0))
        for i in np.flatnonzero(self.sources.sets.sizes == 1):
            found[:, i] = self._alone_s(figures, source, phases, pushed, int(i))
        return np.asarray(found)

    def _alone_s(self, figures: Figures, source: Sources, phases: tuple[int, int], pushed: bool, i: int) -> np.ndarray:
        """`[producers]`: one device alone, which pulls nothing where it was the producer."""
        phase, at = phases
        d, row_bytes = self.sources.sets.sets[i][0], self.sources.row_bytes
        whole = (figures.alone_pushed if pushed else figures.alone)[d, phase]
        push = self.push_extra_s[i, d] * (figures.fixed_push + figures.unit_push * figures.units) * pushed
        extra = self.pull_extra_s[i, d] * row_bytes[at] * source.moved[:, d]
        pulled = np.where(source.saved_s[:, d, at] > 0, 0.0, source.pull_s[:, d, at] + extra)
        pulled[i] = 0.0
        return np.asarray(whole + push * row_bytes[phase] + pulled + source.sole_s[:, at])


def _apart(paces: list[Paces], held: np.ndarray) -> list[Weights]:
    """Each phase by the members' paces in it."""
    found = []
    for pace in paces:
        speeds = np.where(held, 1 / pace.unit_s, 0.0)
        together = speeds.sum(axis=1)
        weights = speeds / together[:, None]
        found.append(Weights((weights, weights), 1 / together))
    return found


def _joint(paces: list[Paces], held: np.ndarray) -> Weights:
    """Both phases at once, since a device has one share for both: those that prefill slows most count in prefill only,
    the others in decode only, and one in between in both.

    The best one in between is found by trying all.
    """
    decode, prefill = (np.where(held, 1 / pace.unit_s, 0.0) for pace in paces)
    ratio = np.where(held, paces[1].unit_s / paces[0].unit_s, np.inf)
    sets = np.arange(len(held))
    order = np.argsort(ratio, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    best = Weights((np.zeros(held.shape), np.zeros(held.shape)), np.full(len(held), -1.0))
    for k in range(held.shape[1]):
        pivot = order[:, k]
        inside = held[sets, pivot]
        slower = (rank > k) & held
        tau = np.where(inside, ratio[sets, pivot], 1.0)
        pace = (decode * ~slower).sum(axis=1) + tau * (prefill * slower).sum(axis=1)
        unit_s = np.where(inside, (1 + tau) / np.maximum(pace, LEAST_S), 0.0)
        early = (rank < k) & held
        part = np.clip(1 - unit_s * (decode * early).sum(axis=1), 0.0, 1.0)
        one, two = np.where(early, decode, 0.0) * unit_s[:, None], np.where(slower, prefill, 0.0) * unit_s[:, None]
        one[sets, pivot] = part
        two[sets, pivot] = np.clip(1 - two.sum(axis=1), 0.0, 1.0)
        valid = inside & (np.abs(one.sum(axis=1) - 1) < 1e-9) & (np.abs(two.sum(axis=1) - 1) < 1e-9)
        better = valid & (unit_s > best.unit_s)
        keep = better[:, None]
        each = (np.where(keep, one, best.each[0]), np.where(keep, two, best.each[1]))
        best = Weights(each, np.where(better, unit_s, best.unit_s))
    return best
