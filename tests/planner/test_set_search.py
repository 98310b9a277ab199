"""Bounds by device sets, closed forms and linear programs: below the exact price of every split over those sets."""

from __future__ import annotations

from math import inf
from random import Random

import numpy as np
import pytest
from choices import choice_of
from instances import alike, known, synthetic
from profiles import make_model, make_profile

from tpplan.hwprofiles.machine import load_hardware
from tpplan.planner.baselines import split_bytes
from tpplan.planner.device_sets import device_sets
from tpplan.planner.plan import BlockPlan, LayerPlan, Split, Workload
from tpplan.planner.request import Request
from tpplan.planner.set_search import set_search
from tpplan.planner.sums import with_best_sums
from tpplan.planner.wishes import completed, pricer_of

SAME = 1 + 1e-6


@pytest.mark.parametrize("make", [known, synthetic])
@pytest.mark.parametrize("seed", range(60))
def test_no_split_is_faster_than_the_bound_of_its_sets(make, seed: int) -> None:  # type: ignore[no-untyped-def]
    """Random shares, strategies and tables, summed the fastest way, with room for exactly their bytes."""
    draw = Random(seed)
    model, profile, request = make(draw)
    request = completed(request, model, profile)
    pricer = pricer_of(request, model, profile)
    split = alike(draw, pricer, request.replicate_kv and model.group > 1)
    caps = tuple(device.total for device in split_bytes(pricer, split))
    search = set_search(pricer, request, caps)
    if search is None:
        assert model.layers < 2 or len(set(model.windows)) > 1
        return
    halves = choice_of(search, split.layers[0])
    exact_s = pricer.split_s(with_best_sums(pricer, split, lambda _: True))
    nodes = search.totals.node(halves.attention), search.totals.node(halves.mlp)
    assert search.totals.each[nodes] <= exact_s * SAME
    assert min(search._solved_s(each) for each in halves.each_way()) <= exact_s * SAME
    assert search._solved_s(halves) <= exact_s * SAME
    assert search.least_s(inf) <= exact_s * SAME


def test_equal_devices_are_counted_not_named() -> None:
    """Four equal devices beside two others: five ways to have some of them, not sixteen."""
    profile = load_hardware("rtx4090@4.0x8+4xrtx3090@4.0x8+p40@3.0x4")
    sets = device_sets(profile, (1,) * 6)
    assert len(sets.sets) == 2 * 5 * 2 - 1
    assert np.array_equal(sets.sizes, [len(each) for each in sets.sets])
    assert len(device_sets(profile, (1, 1, 2, 1, 1, 1)).sets) == 2 * 2 * 2 * 3 * 2 - 1  # room differs, so devices do


def test_equal_devices_that_hold_different_halves() -> None:
    """Attention on one of two equal devices, the MLP on the other, and no room for both on either."""
    profile = make_profile([1.0, 1.0], kind="cuda", overhead_s=1e-8, link_s=1e-8)
    model = make_model(layers=4, hidden=256, heads=8, kv_heads=8, head_dim=32, mlp=1024, vocab=2048)
    request = completed(Request(Workload(64, 32, 1, 256), dtype="float32", cache_dtype="float32"), model, profile)
    pricer = pricer_of(request, model, profile)
    one, other = (lambda n: ((0, n), (n, n))), (lambda n: ((0, 0), (0, n)))
    layer = LayerPlan(BlockPlan("row", one(model.heads)), BlockPlan("row", other(model.mlp)))
    split = Split(one(model.vocab), (layer,) * model.layers, one(model.vocab))
    most = max(device.total for device in split_bytes(pricer, split))
    search = set_search(pricer, request, (most, most))
    assert search is not None
    assert search.memory.tight
    halves = choice_of(search, layer)
    assert search._solved_s(halves) <= pricer.split_s(split) * SAME
    assert search.least_s(inf) <= pricer.split_s(split) * SAME
