"""Splits one change away: each is sound, fits and obeys the request, and none that there should be is missing."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest
from every import shares
from plans import plan_of
from profiles import make_model, make_profile
from splits import describe, random_split

from tpplan.planner.baselines import proportional_split
from tpplan.planner.check import check
from tpplan.planner.memory import device_bytes
from tpplan.planner.neighbours import Neighbourhood
from tpplan.planner.plan import Split, Workload, members, size
from tpplan.planner.price import Pricer
from tpplan.planner.request import Request
from tpplan.planner.units import Units

MODEL = make_model(layers=3, hidden=128, heads=6, kv_heads=3, mlp=200, vocab=5000, tied_embeddings=False)
WORK = Workload(64, 32, 1, 256)
PROFILE = make_profile([1.0, 0.6, 0.3])
PRICER = Pricer(MODEL, PROFILE, "float32", WORK)
ROOMY = (2**40,) * 3


def near(caps: tuple[int, ...] = ROOMY, **wishes: Any) -> Neighbourhood:
    return Neighbourhood(PRICER, Request(WORK, **wishes), caps)


def all_of(hood: Neighbourhood, split: Split) -> list[Split]:
    """By every method that makes neighbours."""
    promising = [option for part in hood.parts(split) for option in hood.promising(split, part, True)]
    return [*hood.every(split), *promising, *hood.reshaped(split)]


@pytest.mark.parametrize("seed", range(6))
def test_neighbours_are_sound(seed: int) -> None:
    """Each covers the model in whole units, as `check` sees it, whatever mixture, strategies and sums it came from."""
    split = random_split(MODEL, 3, seed)
    options = all_of(near(), split)
    assert len(options) > 50
    for option in dict.fromkeys(options):
        check(plan_of(MODEL, ["a", "b", "c"], option), MODEL)


@pytest.mark.parametrize("seed", range(6))
def test_neighbours_fit(seed: int) -> None:
    """With caps at what the split holds, no neighbour holds more on any device."""
    split = random_split(MODEL, 3, seed)
    caps = tuple(device.total for device in device_bytes(MODEL, split, WORK, "float32"))
    for option in all_of(near(caps), split):
        held = device_bytes(MODEL, option, WORK, "float32")
        assert all(device.total <= cap for device, cap in zip(held, caps)), describe(option)


@pytest.mark.parametrize(
    "wishes",
    [
        {"attention_strategy": "column"},
        {"mlp_strategy": "row", "attention_split": (1, 1, 1)},
        {"mlp_split": (96, 64, 40)},
        {"attention_split": (0, 2, 1), "mlp_split": (0, 0, 200)},
    ],
)
def test_neighbours_obey(wishes: dict[str, Any]) -> None:
    """What is given by hand stays as given, in every layer; the rest moves."""
    columns = wishes.get("mlp_split") and tuple(-(-share // 32) for share in wishes["mlp_split"])
    attention = wishes.get("attention_strategy", "row"), wishes.get("attention_split")
    split = proportional_split(PRICER, [2, 1, 1], attention, (wishes.get("mlp_strategy", "row"), columns))
    options = all_of(near(**wishes), split)
    assert len(set(options)) > 10
    for layer in {layer for option in options for layer in option.layers}:
        for name, values in (("attention", MODEL.group), ("mlp", 1)):
            block = getattr(layer, name)
            assert block.strategy == wishes.get(f"{name}_strategy", block.strategy)
            given = wishes.get(f"{name}_split")
            assert given is None or tuple(map(size, block.units)) == tuple(values * share for share in given)


def test_every_has_each_unit_moved_each_strategy_and_each_device_less() -> None:
    """Listed independently for a split of unequal shares: the moves of one unit from device to device of every
    dimension, both blocks under the other strategy, and every block without any one of its devices.
    """
    split = proportional_split(PRICER, [4, 3, 3])
    options, layer = list(near().every(split)), split.layers[0]
    dimensions = {
        "attention": (Units(6, 1), lambda s: s.layers[0].attention.units, layer.attention.units),
        "mlp": (Units(200, 32), lambda s: s.layers[0].mlp.units, layer.mlp.units),
        "head": (Units(5000, 1024), lambda s: s.head, split.head),
    }
    for units, spans_of, spans in dimensions.values():
        found = {spans_of(option) for option in options}
        held = [-(-end // units.unit) - -(-begin // units.unit) for begin, end in spans]
        for a, b in permutations(range(3), 2):
            moved = [count - (d == a) + (d == b) for d, count in enumerate(held)]
            assert units.spans(tuple(moved)) in found
    for name in ("attention", "mlp"):
        blocks = {getattr(option.layers[0], name) for option in options}
        assert {block.strategy for block in blocks} == {"row", "column"}
        for d in range(3):
            assert any(set(members(block.units)) == {0, 1, 2} - {d} for block in blocks)


def test_equal_layers_change_together_and_others_stay() -> None:
    """A neighbour of a split in two kinds of layers changes one kind, or moves the border between them by a layer."""
    one, other = (proportional_split(PRICER, weights) for weights in ([2, 1, 1], [0, 1, 0]))
    split = msgspec.structs.replace(one, layers=(*one.layers[:2], other.layers[0]))
    for option in near().every(split):
        changed = [i for i in range(3) if option.layers[i] != split.layers[i]]
        assert changed in ([], [0, 1], [2], [1])
        assert changed != [1] or option.layers[1] == split.layers[2]


def test_devices_swapped_twice_are_as_before() -> None:
    """Swapping is only between devices that are alike, keeps their number of units, and undoes itself."""
    alike = make_profile([1.0, 0.6, 1.0])
    hood = Neighbourhood(Pricer(MODEL, alike, "float32", WORK), Request(WORK), ROOMY)
    for seed in range(10):
        split = random_split(MODEL, 3, seed)
        (swapped,) = hood.swapped(split)
        check(plan_of(MODEL, ["a", "b", "c"], swapped), MODEL)
        assert list(hood.swapped(swapped)) == [split]
        assert hood.pricer != PRICER
    assert list(near().swapped(split)) == []


def test_finer_shares_only_where_they_are_wanted() -> None:
    """KV heads are cut apart by moves of single query heads, unless the request keeps them whole."""
    split = proportional_split(PRICER, [1, 1, 1])
    ends = {
        wish: {end for o in near(replicate_kv=wish).every(split) for _, end in o.layers[0].attention.units}
        for wish in (True, False)
    }
    assert any(end % 2 for end in ends[True])
    assert not any(end % 2 for end in ends[False])
    assert len(list(shares(3, 3))) == 10
