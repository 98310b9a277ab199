"""Fitted curves: never below the costs they stand for, above them by no more than they say, in few pieces."""

from __future__ import annotations

from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpplan.planner.curves import MOST_SAMPLES, Curve, fit, floors
from tpplan.planner.stage_costs import Costs
from tpplan.planner.units import Units

TICK_S = 1e-10
FLOOR = (1e-6, 1e-6)


def ticks(curve: Curve, units: int, component: int) -> int:
    (piece,) = [piece for piece in curve.pieces if piece.lo <= units <= piece.hi]
    return piece.slopes[component] * units + piece.bases[component]


@given(
    st.integers(2, 300),
    st.lists(st.floats(1e-7, 1e-4), min_size=4, max_size=4),
    st.integers(1, 300),
    st.sampled_from([4, 40]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_curves_lie_just_above(count: int, rates: list[float], step: int, most: int) -> None:
    """A fixed time, a pace, a step and a curve: pieces follow each other from 1 to one unit less than all, no more of
    them than allowed; at every sample both phases cost at least what they do, and at most what the error says.
    """
    fixed, pace, jump, bend = rates

    def costs(units: float, alone: bool) -> Costs:
        compute = fixed + pace * units + jump * (units > step) + bend * log(units + 1)
        return compute, 3 * compute, fixed, fixed * units, fixed

    curve, error = fit(costs, Units(count, 1), TICK_S, FLOOR, most)
    assert len(curve.pieces) <= most
    ends = [(piece.lo, piece.hi) for piece in curve.pieces]
    assert [lo for lo, _ in ends] == [1, *(hi + 1 for _, hi in ends[:-1])]
    assert ends[-1][1] == count - 1
    for units in range(1, count) if count <= MOST_SAMPLES else ():
        exact = costs(units, False)
        for phase in (0, 1):
            together_s = max(exact[phase] + exact[phase + 2], FLOOR[phase])
            for component in (phase, phase + 2):
                over_s = ticks(curve, units, component) * TICK_S - exact[component]
                assert -1e-12 <= over_s <= error * together_s + 1e-12


def test_the_whole_costs_what_it_does() -> None:
    """A device that holds everything is priced with the figures of a device alone, rounded up by a tick at most."""
    curve, _ = fit(lambda units, alone: (1.5e-6 if alone else 9.0, 0.0, 0.0, 0.0, 0.0), Units(8, 1), 1e-9, FLOOR, 40)
    assert curve.whole.bases[0] in (1500, 1501)
    assert (curve.whole.lo, curve.whole.hi) == (8, 8)


def test_one_unit_is_never_shared() -> None:
    """A dimension of one unit has no pieces: one device holds it or does not."""
    curve, error = fit(lambda units, alone: (1e-6,) * 5, Units(20, 32), 1e-9, FLOOR, 40)
    assert (curve.pieces, error) == ((), 0.0)


@pytest.mark.parametrize(("units", "absent"), [(Units(100, 32), 28 / 32), (Units(96, 32), 0.0)])
def test_an_absent_part_saves_its_time(units: Units, absent: float) -> None:
    """On a line of 2 us a unit the last, ragged one saves 2 us for each unit of it that is absent."""
    curve, _ = fit(lambda u, alone: (2e-6 * u, 0.0, 0.0, 0.0, 0.0), units, 1e-9, FLOOR, 40)
    assert curve.unit[0] == pytest.approx(2000 if absent else 0, abs=1)


def test_floors_are_what_all_together_need() -> None:
    """Two devices that need 2 s and 6 s for everything share it in 1.5 s at best."""
    assert floors([(1.0, 2.0, 1.0, 2.0, 0.0), (4.0, 8.0, 2.0, 4.0, 0.0)]) == pytest.approx((1.5, 3.0))
