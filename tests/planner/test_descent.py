"""Descents: they end, never make a split slower, come out the same each time, and stop where nothing near is faster."""

from __future__ import annotations

import time
from typing import Any

import pytest
from linked import with_links
from profiles import make_model, make_profile

from tpplan.planner.baselines import proportional_split, split_bytes
from tpplan.planner.descent import Descent, effort
from tpplan.planner.heuristic import Balancer
from tpplan.planner.neighbours import Neighbourhood
from tpplan.planner.plan import Split, Workload, devices_used
from tpplan.planner.price import Pricer
from tpplan.planner.request import Request

MODEL = make_model(layers=4, hidden=256, heads=8, kv_heads=4, mlp=1024, vocab=8192)
WORK = Workload(64, 32, 1, 256)
CARDS = with_links(make_profile([1.0, 0.8, 0.5], kind="cuda"), [4e9, 1e9, 2e9], ["", "a", "a"], {"a": 2e9}, 8e9)
PROFILES = {"cpus": make_profile([1.0, 0.6, 0.3]), "cards": CARDS, "twins": make_profile([1.0, 1.0])}
STARTS = [[1, 1, 1], [0, 0, 1], [5, 2, 1], [1, 0, 3]]


def descent_on(name: str, caps: tuple[int, ...] | None = None, seconds: float = 60, **wishes: Any) -> Descent:
    pricer = Pricer(MODEL, PROFILES[name], "float32", WORK)
    caps = caps or (2**40,) * len(PROFILES[name].devices)
    return Descent(Neighbourhood(pricer, Request(WORK, **wishes), caps), time.perf_counter() + seconds)


def start_on(descent: Descent, weights: list[int]) -> Split:
    return proportional_split(descent.near.pricer, weights[: len(descent.near.caps)])


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("weights", STARTS)
def test_descents_end_where_nothing_near_is_faster(name: str, weights: list[int]) -> None:
    """The end is no slower than the start, and none of its neighbours is faster by more than a tie."""
    descent = descent_on(name)
    start = start_on(descent, weights)
    end = descent.finished(start)
    assert not descent.over
    pricer = descent.near.pricer
    assert pricer.split_s(end) <= pricer.split_s(start)
    assert min(map(pricer.split_s, descent.near.every(end))) >= pricer.split_s(end) * (1 - 0.005)


@pytest.mark.parametrize("name", PROFILES)
def test_the_same_start_ends_the_same(name: str) -> None:
    """Two descents of their own, one after the other, end in the same split; so does a descent from its end."""
    ends = []
    for _ in range(2):
        descent = descent_on(name)
        ends.append(descent.polished(start_on(descent, [5, 2, 1])))
    assert ends[0] == ends[1]
    assert descent.price_s(descent.polished(ends[0])) == pytest.approx(descent.price_s(ends[0]), rel=1e-5)


def test_without_time_or_prices_left_a_descent_ends_at_once() -> None:
    """The start comes back, with the best sums at most."""
    late = descent_on("cpus", seconds=-1)
    start = start_on(late, [1, 1, 1])
    began = time.perf_counter()
    assert late.polished(start) == late.summed(start)
    assert late.simplest(start, balancer_of(late)) == start
    assert time.perf_counter() - began < 0.5


def test_descents_stay_within_caps_and_wishes() -> None:
    """From a split that just fits, with a strategy by hand, no step leaves the caps or the strategy."""
    roomy = descent_on("cpus")
    start = proportional_split(roomy.near.pricer, [1, 1, 1], ("column", None))
    caps = tuple(device.total for device in split_bytes(roomy.near.pricer, start))
    tight = descent_on("cpus", caps, attention_strategy="column")
    end = tight.polished(start)
    assert all(n.total <= cap for n, cap in zip(split_bytes(tight.near.pricer, end), caps))
    assert {layer.attention.strategy for layer in end.layers} == {"column"}
    assert tight.price_s(end) <= tight.price_s(start)


def balancer_of(descent: Descent) -> Balancer:
    return Balancer(descent.near.pricer, descent.near.caps, descent.near.request.replicate_kv)


@pytest.mark.parametrize("name", PROFILES)
def test_the_simplest_is_as_fast_and_no_more_effort(name: str) -> None:
    """At most 0.5 % slower, with no more devices and exchanges."""
    descent = descent_on(name)
    end = descent.polished(start_on(descent, [5, 2, 1]))
    simple = descent.simplest(end, balancer_of(descent))
    assert descent.price_s(simple) <= descent.price_s(end) * 1.005
    assert effort(simple) <= effort(end)


def test_a_useless_device_is_dropped() -> None:
    """A device that holds one unit of a table and saves nearly nothing is left out; without one, one device is."""
    descent = descent_on("twins")
    pricer = descent.near.pricer
    alone = proportional_split(pricer, [1, 0])
    table = ((0, 7168), (7168, 8192))
    barely = Split(table, alone.layers, table)
    assert devices_used(barely) == {0, 1}
    simple = descent.simplest(barely, balancer_of(descent))
    assert pricer.split_s(simple) <= pricer.split_s(barely) * 1.005
    assert len(devices_used(simple)) == (1 if pricer.split_s(alone) <= pricer.split_s(barely) * 1.005 else 2)


def test_of_twins_the_earlier_holds_all() -> None:
    """Everything on the second of two equal devices comes out on the first."""
    descent = descent_on("twins")
    first, second = (proportional_split(descent.near.pricer, weights) for weights in ([1, 0], [0, 1]))
    assert descent.simplest(second, balancer_of(descent)) == first
