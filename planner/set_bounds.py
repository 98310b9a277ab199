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
    """Of the members of every set `[set, device]`, for one phase: units a second (0 outside), and seconds whatever the
    share, pushes included or not.
    """

    speed: np.ndarray
    base_s: np.ndarray
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
    def push_extra_s(self) -> np.ndarray:
        """CPU devices push nothing where they add up themselves, so they do not count."""
        cpu = np.array([d.kind == "cpu" for d in self.shares.costs.pricer.profile.devices])
        return np.where(cpu, 0.0, self.sources.extra_s(self.sources.sets.held & ~cpu, push=True))

    @cached_property
    def spared_extra_s(self) -> np.ndarray:
        """Where one device of the set pulls nothing."""
        return self.sources.extra_s(self.sources.sets.held, push=False, fewer=1)

    def paces(self, figures: Figures, phase: int, pushed: bool) -> Paces:
        sets, row_bytes = self.sources.sets, self.sources.row_bytes[phase]
        count = len(sets.of)
        lines = figures.pushed if pushed else figures.bare
        best = [[line.best(figures.units / k) for line in lines] for k in range(1, count + 1)]
        slopes, bases = (np.array([[each[i][phase] for each in row] for row in best])[sets.sizes - 1] for i in (0, 1))
        extra = self.push_extra_s * row_bytes if pushed else np.zeros_like(slopes)
        unit_s = np.maximum(slopes + extra * figures.unit_push, LEAST_S)
        first = sets.held & (np.cumsum(sets.held, axis=1) == 1)
        base_s = bases + extra * figures.fixed_push + first * figures.residual[:, phase]
        return Paces(np.where(sets.held, 1 / unit_s, 0.0), base_s, unit_s)

    def stage_s(self, figures: Figures, sources: Sources, phase: int, pushed: bool, last: bool = False) -> np.ndarray:
        """The members of each set pull what each set of producers has, then do their shares, and push.

        `last`: only the last chunk is pulled and worked on, in prefill.
        """
        at = 2 if last and phase else phase
        sets, row_bytes, paces = self.sources.sets, self.sources.row_bytes[at], self.paces(figures, phase, pushed)
        together = paces.speed.sum(axis=1)
        base = (paces.speed * paces.base_s).sum(axis=1) + figures.units
        pulled = sources.pull_s[:, :, at] @ paces.speed.T
        few = (sets.sizes == 1)[:, None]
        extra = [sources.moved @ (paces.speed * each * row_bytes).T for each in (self.pull_extra_s, self.spared_extra_s)]
        pulled += np.where(few, extra[1], extra[0])
        found = (base + pulled - self._own(sources, paces, at)) / together
        found = np.maximum(found, self._slowest(figures, sources, paces, at))
        self._one_member(found, figures, sources, phase, at, pushed)
        return np.maximum(found, 0.0) + sources.middle_s[:, at][:, None]

    def _own(self, sources: Sources, paces: Paces, at: int) -> np.ndarray | float:
        """What is saved at most, weighted, where the members wrote slices themselves."""
        if not sources.saved_s.any():
            return 0.0
        held, hidden = self.sources.sets.held, self.shares.costs.pricer.model.hidden
        most = np.zeros((len(held), len(held)))
        for d in range(held.shape[1]):
            each = sources.saved_s[:, d, at][:, None] + self.pull_extra_s[:, d] * self.sources.row_bytes[at]
            both = held[:, d][:, None] & held[:, d] & (sources.saved_s[:, d, at] > 0)[:, None]
            most = np.maximum(most, np.where(both, each * paces.speed[:, d], 0.0))
        return most * hidden

    def _slowest(self, figures: Figures, sources: Sources, paces: Paces, at: int) -> np.ndarray:
        """No member does less than the least share, nor pulls less than nothing."""
        held, found = self.sources.sets.held, np.zeros((len(sources.moved), len(self.sources.sets.sets)))
        for d in range(held.shape[1]):
            own = paces.base_s[:, d] + figures.least * paces.unit_s[:, d]
            pull = np.where(sources.saved_s[:, d, at] > 0, 0.0, sources.pull_s[:, d, at])
            found = np.maximum(found, np.where(held[:, d], pull[:, None] + own, 0.0))
        return found

    def _one_member(
        self, found: np.ndarray, figures: Figures, sources: Sources, phase: int, at: int, pushed: bool
    ) -> None:
        """A device alone, which pulls nothing where it was the producer."""
        sets = self.sources.sets
        for i in np.flatnonzero(sets.sizes == 1):
            d = sets.sets[i][0]
            whole = figures.alone_pushed if pushed else figures.alone
            push = self.push_extra_s[i, d] * (figures.fixed_push + figures.unit_push * figures.units) if pushed else 0.0
            wrote = np.where(sources.saved_s[:, d, at] > 0, 0.0, 1.0)
            extra = self.pull_extra_s[i, d] * self.sources.row_bytes[at] * sources.moved[:, d]
            pulled = wrote * (sources.pull_s[:, d, at] + extra)
            pulled[i] = 0.0
            found[:, i] = whole[d, phase] + push * self.sources.row_bytes[phase] + pulled

    def second_s(self, figures: Figures, gather: Sources, width: int, phase: int, pushed: bool) -> np.ndarray:
        """`[members, writers]` of a column block: writers gather `width` values, then write; infinite where a writer is
        no member, or the only member.
        """
        sets, paces = self.sources.sets, self.paces(figures, phase, pushed)
        extra = self.pull_extra_s * self.sources.row_bytes[phase]
        base = (paces.speed * (paces.base_s + extra * width)).sum(axis=1) + figures.units
        found = base + gather.pull_s[:, :, phase] @ paces.speed.T
        own = np.zeros_like(found)
        for d in range(sets.held.shape[1]):
            each = gather.saved_s[:, d, phase][:, None] + np.where(gather.saved_s[:, d, phase] > 0, 1, 0)[:, None] * extra[:, d]
            own = np.maximum(own, np.where(sets.held[:, d], each * paces.speed[:, d], 0.0))
        found = (found - own * width) / paces.speed.sum(axis=1)
        possible = sets.within.T & (sets.sizes > 1)[:, None]
        return np.where(possible, np.maximum(found, 0.0), np.inf)
