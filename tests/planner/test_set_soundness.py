"""Bounds by device sets against all splits of random small instances: of every choice of sets, and of the plan."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random

import msgspec
import pytest
from choices import choice_of
from every import every_split, priced
from instances import Instance
from small import as_asked, small

from tpplan.planner.baselines import split_bytes
from tpplan.planner.memory import fits
from tpplan.planner.plan import Split
from tpplan.planner.price import Pricer
from tpplan.planner.request import Request
from tpplan.planner.set_halves import Halves
from tpplan.planner.set_search import SetSearch, set_search
from tpplan.planner.solve import solve
from tpplan.planner.wishes import completed, pricer_of

SAME = 1 + 1e-6
EQUAL = 1.005 * 1.001  # plans that count as equal, and the gap at which a search ends
MOST_MEMORY = 1 << 40


def made(seed: int) -> tuple[Instance, Pricer, list[Split], tuple[int, ...]]:
    """An instance, all of its splits whose layers are alike, and room for exactly one of them."""
    draw = Random(seed)
    model, profile, request = small(draw)
    request = completed(request, model, profile)
    pricer = pricer_of(request, model, profile)
    every = every_split(pricer, 1 if request.replicate_kv else model.group)
    splits = [split for each in every if (split := as_asked(request, model, each))]
    room = tuple(device.total for device in split_bytes(pricer, draw.choice(splits)))
    return (model, profile, request), pricer, splits, room


def fastest(
    pricer: Pricer, request: Request, splits: list[Split], caps: tuple[int, ...]
) -> tuple[SetSearch, dict[Halves, float]]:
    """The search within `caps`, and by choice of sets the exact price of the fastest split that fits."""
    search, found = set_search(pricer, request, caps), dict[Halves, float]()
    assert search is not None
    for split in splits:
        halves = choice_of(search, split.layers[0])
        for seconds, summed in priced(pricer, split):
            if seconds >= found.get(halves, float("inf")):
                break
            if fits(split_bytes(pricer, summed), pricer.profile, caps):
                found[halves] = seconds
                break
    return search, found


def too_high(search: SetSearch, found: dict[Halves, float]) -> Iterator[tuple[str, float, Halves]]:
    """Bounds above the fastest split of their sets, and by how much: closed forms, programs, programs of one way of
    summing each.
    """
    for halves, seconds in found.items():
        bounds = {
            "closed": search.totals.each[search.totals.node(halves.attention), search.totals.node(halves.mlp)],
            "solved": search._solved_s(halves),
            "settled": min(search._solved_s(each) for each in halves.each_way()),
        }
        yield from ((name, bound / seconds, halves) for name, bound in bounds.items() if bound > seconds * SAME)


@pytest.mark.parametrize("seed", range(31))
def test_no_bound_is_above_the_fastest_split_of_its_sets(seed: int) -> None:
    """With memory to spare and with room for exactly some split: every choice of sets, and the least of all."""
    (_, profile, request), pricer, splits, room = made(seed)
    for caps in ((MOST_MEMORY,) * len(profile.devices), room):
        search, found = fastest(pricer, request, splits, caps)
        assert list(islice(too_high(search, found), 3)) == []
        assert search.least_s(float("inf")) <= min(found.values()) * SAME


@pytest.mark.parametrize("seed", range(31))
def test_plan_and_bound_enclose_the_fastest_split(seed: int) -> None:
    """The bound of a plan is not above the fastest split, which a proven plan is not slower than."""
    (model, profile, request), pricer, splits, room = made(seed)
    caps = {device.name: cap for device, cap in zip(profile.devices, room)}
    _, found = fastest(pricer, request, splits, room)
    plan = solve(model, "m", profile, msgspec.structs.replace(request, caps=caps))
    assert plan.bound_s <= min(found.values()) * SAME
    assert plan.objective_s * (1 - plan.gap) <= plan.bound_s * SAME
    if plan.status == "optimal":
        assert plan.objective_s <= min(found.values()) * max(EQUAL, 1 / (1 - plan.gap))
