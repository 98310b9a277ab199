"""The choice of device sets that a layer's split belongs to, as the search over sets numbers it."""

from __future__ import annotations

from tpplan.planner.device_sets import DeviceSets, Set
from tpplan.planner.plan import BlockPlan, LayerPlan, members
from tpplan.planner.set_halves import Half, Halves
from tpplan.planner.set_search import SetSearch
from tpplan.planner.steps import Block


def choice_of(search: SetSearch, layer: LayerPlan) -> Halves:
    """With every way of summing open."""
    return Halves(_half(search, "attention", layer.attention), _half(search, "mlp", layer.mlp))


def _half(search: SetSearch, block: Block, plan: BlockPlan) -> Half:
    sets, held = search.totals.sets, members(plan.units)
    number = _first_of_equals(sets, held)
    if plan.strategy == "column" and len(held) > 1:
        return Half(number, _first_of_equals(sets, members(plan.outputs)))
    return search.totals.halves(block, number, 0)[0][1]


def _first_of_equals(sets: DeviceSets, held: Set) -> int:
    """The number of the set that has as many of every run of equal devices."""
    runs: list[list[int]] = []
    for d, like in enumerate(sets.of):
        if runs and d and sets.of[d - 1] == like:
            runs[-1].append(d)
        else:
            runs.append([d])
    counts = [sum(d in held for d in run) for run in runs]
    return sets.index[tuple(d for run, n in zip(runs, counts) for d in run[:n])]
