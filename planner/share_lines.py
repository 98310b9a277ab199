"""Straight lines below what a share of a block costs a device: what bounds by closed form and linear programs add up.

Knows curves of shares. Knows nothing of exchanges or device sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .stage_costs import Costs
from .units import Units

SAMPLES = 16
MOST_LINES = 3
STRAIGHT = 5e-4  # of the whole's time; curves closer than that to one line need no second


@dataclass(frozen=True)
class Lines:
    """No share of u units costs less than `slopes * u + bases` seconds says, whichever line: `[line, phase]`."""

    slopes: np.ndarray
    bases: np.ndarray

    def best(self, units: float) -> tuple[np.ndarray, np.ndarray]:
        """The line of each phase that is highest at a share of so many units: slopes, bases."""
        at = (self.slopes * units + self.bases).argmax(axis=0)
        return self.slopes[at, (0, 1)], self.bases[at, (0, 1)]


@dataclass(frozen=True)
class Curve:
    """What shares of `units` cost a device, each priced once."""

    costs: Callable[[float], Costs]
    units: Units
    _found: dict[float, Costs] = field(default_factory=dict)

    def seconds(self, share: float, phase: int, pushed: bool) -> float:
        """Of `share` units, in decode or prefill, without or with the push."""
        if share not in self._found:
            self._found[share] = self.costs(share)
        costs = self._found[share]
        return costs[phase] + (costs[2 + phase] if pushed else 0.0)

    def samples(self) -> np.ndarray:
        """Shares from the smallest to the whole, closer together where they are small, since curves bend most there.

        The last unit may be ragged: it alone is the smallest share, and the whole ends with it.
        """
        whole, step = self.units.whole, self.units.whole / SAMPLES
        few = (2.0**i * part for i in range(self.units.count.bit_length()) for part in (1.0, 1.5))
        between = {float(round(u)) for u in (*(u for u in few if u < step), *(step * i for i in range(1, SAMPLES)))}
        return np.array(sorted({self.units.least, whole} | {u for u in between if 1 <= u < whole}))

    def lowest(self, slope: float, phase: int, pushed: bool, begin: float, end: float) -> float:
        """The least of seconds less `slope` a unit over whole units between two shares, where the curve is convex."""

        def above_s(share: int) -> float:
            return self.seconds(float(share), phase, pushed) - slope * share

        low, high = int(np.ceil(begin)), int(end)
        while high - low > 2:
            middle = (low + high) // 2
            low, high = (low, middle + 1) if above_s(middle) <= above_s(middle + 1) else (middle, high)
        return min((above_s(share) for share in range(low, high + 1)), default=np.inf)


def lines_below(curve: Curve, pushed: bool) -> Lines:
    """Lines below a curve of both phases, and below its bends between samples as far as neighbours tell them."""
    by_phase = [_lines(curve, phase, pushed) for phase in (0, 1)]
    most = max(len(each) for each in by_phase)
    padded = [each + each[-1:] * (most - len(each)) for each in by_phase]
    table = np.array(padded).transpose(1, 2, 0)
    return Lines(table[:, 0], table[:, 1])


def _lines(curve: Curve, phase: int, pushed: bool) -> list[tuple[float, float]]:
    units = curve.samples()
    seconds = np.array([curve.seconds(float(u), phase, pushed) for u in units])
    if len(units) == 1:
        return [(0.0, float(seconds[0]))]
    edges = list(pairwise(_hull(units, seconds)))
    chosen = dict.fromkeys(edges[round(i * (len(edges) - 1) / (MOST_LINES - 1))] for i in (1, 0, 2))
    bend, found = _bend(units, seconds), []
    for a, b in chosen:
        slope = max(_slope(units, seconds, a, b), 0.0)
        gaps = {a - 1, a, b - 1, b} & set(range(len(units) - 1))  # beside the samples that the line touches
        between = [curve.lowest(slope, phase, pushed, units[i], units[i + 1]) for i in sorted(gaps)]
        base = float(min((seconds - slope * units).min(), *between))
        found.append((slope, base - bend))
        if (seconds - slope * units - base).max() < STRAIGHT * seconds[-1]:
            return found[-1:]
    return found


def _hull(units: np.ndarray, seconds: np.ndarray) -> list[int]:
    """The samples that a thread pulled tight from below touches."""
    hull = [0]
    for i in range(1, len(units)):
        while len(hull) > 1 and _slope(units, seconds, hull[-2], hull[-1]) >= _slope(units, seconds, hull[-1], i):
            hull.pop()
        hull.append(i)
    return hull


def _slope(units: np.ndarray, seconds: np.ndarray, a: int, b: int) -> float:
    return float((seconds[b] - seconds[a]) / (units[b] - units[a]))


def _bend(units: np.ndarray, seconds: np.ndarray) -> float:
    """How far a curve may dip below the chord between two samples: as far as a sample lies below the chord of its
    neighbours, of which a smooth curve dips a quarter and one kink no more than all.
    """
    if len(units) < 3:
        return 0.0
    share = (units[1:-1] - units[:-2]) / (units[2:] - units[:-2])
    chord = seconds[:-2] + (seconds[2:] - seconds[:-2]) * share
    return float(max(0.0, (chord - seconds[1:-1]).max()))
