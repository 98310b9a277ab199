"""Costs as functions of a device's share, fitted from above by few straight pieces in integer ticks.

Knows curves. Knows nothing of what they cost, of constraints, or of what other devices do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from .stage_costs import Costs
from .units import Units

TOLERANCE = 1e-3
MOST_PIECES = 40  # of all devices together
MOST_SAMPLES = 48
FREE = (0,) * 5


@dataclass(frozen=True)
class Piece:
    """For `lo <= units <= hi` every cost is at most `slopes * units + bases`, in ticks."""

    lo: int
    hi: int
    slopes: tuple[int, ...]
    bases: tuple[int, ...]


@dataclass(frozen=True)
class Curve:
    """Costs of a device that shares a block (`pieces`) or holds all of it (`whole`).

    `unit`: the most that a unit's absence saves, where part of the last unit is absent.
    """

    pieces: tuple[Piece, ...]
    whole: Piece
    unit: tuple[int, ...]


def floors(wholes: list[Costs]) -> tuple[float, float]:
    """Decode and prefill seconds below which no sharing brings a stage, from what each device needs for all of it."""
    decode, prefill = (1 / sum(1 / (w[phase] + w[phase + 2]) for w in wholes) for phase in (0, 1))
    return decode, prefill


def fit(  # type: ignore[no-untyped-def]
    costs, dimension: Units, tick_s: float, floor: tuple[float, float], most: int
) -> tuple[Curve, float]:
    """The curve of `costs(units, alone)` on 1..units in `most` pieces, and how far it lies above them at worst.

    Errors are relative to the cost, or to `floor` where that is larger: a stage lasts no less.
    """
    units = dimension.count
    whole = _constant(units, costs(units, True), tick_s)
    if units == 1:
        return Curve((), whole, whole.slopes), 0.0
    at = sorted({max(1, round((units - 1) * i / MOST_SAMPLES)) for i in range(MOST_SAMPLES + 1)})
    points = [(u, costs(u, False)) for u in at]
    tolerance, cuts = TOLERANCE, _cuts(points, TOLERANCE, floor)
    while len(cuts) > most:
        tolerance *= 2
        cuts = _cuts(points, tolerance, floor)
    pieces, error = [], 0.0
    for begin, end in cuts:
        lo = points[begin - 1][0] + 1 if begin else 1
        piece, worst = _piece(
            lo, points[max(begin - 1, 0) if lo < points[begin][0] else begin : end + 1], tick_s, floor
        )
        pieces.append(piece)
        error = max(error, worst)
    absent = dimension.missing / dimension.unit
    saved = [[(a - b) / absent for a, b in zip(c, costs(u - absent, False))] for u, c in points] if absent else []
    return Curve(tuple(pieces), whole, tuple(max(0, ceil(max(each) / tick_s)) for each in zip(*saved)) or FREE), error


def free_curve(units: int) -> Curve:
    """A curve for questions in which time plays no part."""
    return Curve((Piece(1, units - 1, FREE, FREE),) if units > 1 else (), Piece(units, units, FREE, FREE), FREE)


def _constant(units: int, costs: Costs, tick_s: float) -> Piece:
    return Piece(units, units, (0,) * len(costs), tuple(ceil(c / tick_s) for c in costs))


def _cuts(points: list[tuple[int, Costs]], tolerance: float, floor: tuple[float, float]) -> list[tuple[int, int]]:
    """Index ranges (inclusive) of points that one line each describes; cut where the line is worst."""
    done, todo = [], [(0, len(points) - 1)]
    while todo:
        begin, end = todo.pop()
        worst, where = max(
            ((_miss(points[begin], points[end], points[i], floor), i) for i in range(begin + 1, end)),
            default=(0.0, begin),
        )
        if worst <= tolerance:
            done.append((begin, end))
        else:
            todo += [(begin, where), (min(where + 1, end), end)]
    return sorted(done)


def _miss(
    first: tuple[int, Costs], last: tuple[int, Costs], point: tuple[int, Costs], floor: tuple[float, float]
) -> float:
    """Distance of a point from a line through two others, relative to the phase's cost."""
    share = (point[0] - first[0]) / (last[0] - first[0])
    gaps = [abs(a + (b - a) * share - c) for a, b, c in zip(first[1], last[1], point[1])]
    decode, prefill = (max(point[1][phase] + point[1][phase + 2], floor[phase]) for phase in (0, 1))
    return max(max(gaps[0], gaps[2]) / decode, max(gaps[1], gaps[3]) / prefill)


def _piece(lo: int, points: list[tuple[int, Costs]], tick_s: float, floor: tuple[float, float]) -> tuple[Piece, float]:
    """A line above all points for `lo` up to the last one, and how far above it is at worst."""
    (u0, first), (u1, last) = points[0], points[-1]
    slopes = tuple(round((b - a) / tick_s / max(u1 - u0, 1)) for a, b in zip(first, last))
    bases = tuple(max(ceil(c[i] / tick_s - slopes[i] * u) for u, c in points) for i in range(len(first)))
    over = max(
        max((slopes[i] * u + bases[i]) * tick_s - c[i] for i in (phase, phase + 2))
        / max(c[phase] + c[phase + 2], floor[phase])
        for u, c in points
        for phase in (0, 1)
    )
    return Piece(lo, u1, slopes, bases), over
