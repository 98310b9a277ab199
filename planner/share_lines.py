"""Straight lines below what a share of a block costs a device: what bounds by closed form and linear programs add up.

Knows curves of shares. Knows nothing of exchanges or device sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .stage_costs import Costs

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


def sampled(costs: Callable[[int], Costs], units: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares from one unit to all of them, and their `[share, component]` seconds."""
    at = sorted({max(1, round(units * i / SAMPLES)) for i in range(SAMPLES + 1)})
    return np.array(at, dtype=float), np.array([costs(u) for u in at])


def lines_below(units: np.ndarray, seconds: np.ndarray) -> Lines:
    """Lines below `[share, phase]` seconds, and below the bend between samples as far as neighbours tell it."""
    by_phase = [_lines(units, seconds[:, phase]) for phase in (0, 1)]
    most = max(len(each) for each in by_phase)
    padded = [each + each[-1:] * (most - len(each)) for each in by_phase]
    table = np.array(padded).transpose(1, 2, 0)
    return Lines(table[:, 0], table[:, 1])


def _lines(units: np.ndarray, seconds: np.ndarray) -> list[tuple[float, float]]:
    if len(units) == 1:
        return [(0.0, float(seconds[0]))]
    edges = list(pairwise(_hull(units, seconds)))
    chosen = dict.fromkeys(edges[round(i * (len(edges) - 1) / (MOST_LINES - 1))] for i in (1, 0, 2))
    bend, found = _bend(units, seconds), []
    for a, b in chosen:
        slope = max(_slope(units, seconds, a, b), 0.0)
        base = float((seconds - slope * units).min())
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
    """How far a smooth curve may dip below the chord between two samples: a quarter of how far each sample lies below
    the chord of its neighbours.
    """
    if len(units) < 3:
        return 0.0
    share = (units[1:-1] - units[:-2]) / (units[2:] - units[:-2])
    chord = seconds[:-2] + (seconds[2:] - seconds[:-2]) * share
    return float(max(0.0, (chord - seconds[1:-1]).max()) / 4)
