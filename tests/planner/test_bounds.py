"""Bounds on stages against all ways to share units: never above any of them, and as high as can be."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest
from every import shares
from ortools.sat.python import cp_model

from tpplan.planner.bounds import NEVER, Gather, least_after_gather, least_of_any_set, least_ticks
from tpplan.planner.curves import Curve, Piece, fit
from tpplan.planner.stage_costs import Costs
from tpplan.planner.units import Units
from tpplan.planner.variables import Share, Shares, add_spares, make_shares

COMPUTE_AND_PUSH = (0, 2)
TICK_S = 1e-9


def curves(rng: Random, dimension: Units, devices: int) -> list[Curve]:
    """A fixed time and a steady pace, now and then a step, for computing; pushes alike."""
    found = []
    for _ in range(devices):
        fixed, pace, step, at = rng.uniform(0, 9e-7), rng.uniform(1e-7, 2e-6), rng.choice([0, 3e-6]), rng.randint(1, 9)

        def costs(units: float, alone: bool, parts=(fixed, pace, step, at)) -> Costs:  # type: ignore[no-untyped-def]
            fixed, pace, step, at = parts
            compute = fixed + pace * units + step * (units > at)
            return (0.8 if alone else 1.0) * compute, 2 * compute, 1e-7 * pace * 1e6, 2e-7, 2e-7

        found.append(fit(costs, dimension, TICK_S, (1e-12, 1e-12), 40)[0])
    return found


def shares_of(rng: Random, dimension: Units, devices: int, group: int = 1) -> Shares:
    model = cp_model.CpModel()
    made = make_shares(model, "x", curves(rng, dimension, devices), 1, dimension)
    if group > 1:
        spare = [tuple(rng.randint(1, 300) for _ in range(5)) for _ in range(devices)]
        add_spares(model, "x", made, group, spare)
    return made


def ticks(share: Share, units: int, components: tuple[int, ...]) -> int:
    """By the piece that has as many units, or the whole."""
    pieces: list[Piece] = [piece for piece, _, _ in share.pieces if piece.lo <= units <= piece.hi]
    piece = share.whole_piece if units == share.whole_piece.hi else pieces[0]
    return sum(piece.slopes[c] * units + piece.bases[c] for c in components)


def slowest(made: Shares, counts: tuple[int, ...], before: list[int]) -> int:
    """Ticks of the slowest device: what it spends before, its units, and KV heads beyond them, in device order."""
    worst, begin = 0, 0
    for share, units, offset in zip(made.by_device, counts, before):
        end = begin + units
        if units:
            spare = made.group * (-(-end // made.group) - begin // made.group) - units
            extra = spare * sum(share.spare_unit[c] for c in COMPUTE_AND_PUSH)
            worst = max(worst, offset + ticks(share, units, COMPUTE_AND_PUSH) + extra)
        begin = end
    return worst


def best(made: Shares, held: tuple[int, ...], before: list[int]) -> int:
    """Of all ways to share all units among exactly these devices."""
    count = made.by_device[0].whole_piece.hi
    every = (c for c in shares(count, len(made.by_device)) if tuple(d for d, u in enumerate(c) if u) == held)
    return min((slowest(made, counts, before) for counts in every), default=NEVER)


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("seed", range(8))
def test_bounds_are_the_best_of_all_shares(group: int, seed: int) -> None:
    """For every set of three devices that can share the units, whether or not shares cut KV heads apart."""
    rng = Random(seed)
    made = shares_of(rng, Units(rng.choice([4, 8, 12]), 1), 3, group)
    bounds = dict(zip([held for held, _ in made.sets], least_ticks(made, COMPUTE_AND_PUSH)))
    assert len(bounds) == 7
    for held, bound in bounds.items():
        assert bound == best(made, held, [0, 0, 0])


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_bounds_with_pulls_before(group: int, seed: int) -> None:
    """The same where devices that share the units are busy before, each for a time of its own."""
    rng = Random(seed)
    made = shares_of(rng, Units(8, 1), 3, group)
    before = [rng.randint(0, 4000) for _ in range(3)]
    for (held, _), bound in zip(made.sets, least_ticks(made, COMPUTE_AND_PUSH, before)):
        assert bound == best(made, held, before if len(held) > 1 else [0, 0, 0])


@pytest.mark.parametrize("group", [1, 2])
def test_sets_with_more_devices_than_units_have_no_bound(group: int) -> None:
    """Two units for three devices: what cannot be is bounded by nothing that a solver could not count."""
    made = shares_of(Random(1), Units(2, 1), 3, group)
    for (held, _), bound in zip(made.sets, least_ticks(made, COMPUTE_AND_PUSH)):
        assert 0 <= bound < 1 << 40
        assert bound <= best(made, held, [0, 0, 0])


@pytest.mark.parametrize("seed", range(8))
def test_bounds_after_a_gather_hold_for_all_shares(seed: int) -> None:
    """Whoever wrote what: no shares of units and of columns written bring the slowest below the bound."""
    rng = Random(seed)
    made = shares_of(rng, Units(6, 1), 3)
    gather = Gather([rng.randint(2000, 9000) for _ in range(3)], [float(rng.randint(100, 900)) for _ in range(3)], 5)
    wrote = list(shares(gather.units, 3))
    for (held, _), bound in zip(made.sets, least_after_gather(made, COMPUTE_AND_PUSH, gather)):
        if len(held) == 1:
            continue
        befores = [[max(0, int(f - s * n)) for f, s, n in zip(gather.full, gather.saved, w)] for w in wrote]
        assert bound <= min(best(made, held, before) for before in befores) + 1


@pytest.mark.parametrize("seed", range(8))
def test_no_set_is_below_the_bound_of_any_set(seed: int) -> None:
    """One bound for all sets, for when there are too many to list."""
    made = shares_of(Random(seed), Units(8, 1), 4)
    every = [held for k in range(1, 5) for held in combinations(range(4), k)]
    assert least_of_any_set(made, COMPUTE_AND_PUSH) <= min(best(made, held, [0] * 4) for held in every)


@pytest.mark.parametrize("seed", range(6))
def test_a_ragged_last_unit_lowers_the_bound(seed: int) -> None:
    """Of 100 values in units of 32 the last has 4: shares priced by values, on a line, are never below the bound."""
    rng, dimension = Random(seed), Units(100, 32)
    paces = [rng.uniform(1e-7, 2e-6) for _ in range(3)]

    def curve(pace: float) -> Curve:
        costs = lambda units, _: (pace * dimension.of(units) / 32, pace, 0.0, 0.0, 0.0)  # noqa: E731
        return fit(costs, dimension, TICK_S, (1e-12, 1e-12), 40)[0]

    made = make_shares(cp_model.CpModel(), "x", [curve(pace) for pace in paces], 1, dimension)
    of_any_set_s = least_of_any_set(made, (0,)) * TICK_S
    for (held, _), bound in zip(made.sets, least_ticks(made, (0,))):
        least_s = float("inf")
        for counts in shares(dimension.count, 3):
            if tuple(d for d, u in enumerate(counts) if u) == held:
                values = [end - begin for begin, end in dimension.spans(counts)]
                least_s = min(least_s, max(pace * v / 32 for pace, v in zip(paces, values)))
        assert max(bound * TICK_S, of_any_set_s) <= least_s + 5 * TICK_S
