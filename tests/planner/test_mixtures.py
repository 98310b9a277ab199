"""Where memory is short: layers cut in several ways, against all layer splits, all equal cuts and many mixtures."""

from __future__ import annotations

from itertools import combinations_with_replacement, pairwise, permutations, product
from random import Random

import msgspec
import numpy as np
import pytest
from every import best_split, every_layer, every_table
from profiles import make_model, make_profile

from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.baselines import proportional_split, split_bytes
from tpplan.planner.check import check
from tpplan.planner.memory import device_caps, fits
from tpplan.planner.mixtures import MOST_PATTERNS, Mixer, fastest_counts
from tpplan.planner.plan import LayerPlan, Plan, Split, Workload
from tpplan.planner.price import Pricer
from tpplan.planner.request import Request
from tpplan.planner.solve import solve

MODEL = make_model(layers=4, hidden=64, heads=2, kv_heads=2, head_dim=16, mlp=512, vocab=1024)
WORK = Workload(32, 64, 1, 128)
EQUAL = 1.005 * 1.001
Instance = tuple[Pricer, dict[str, int]]


def caps_of(pricer: Pricer, split: Split, spare: float) -> dict[str, int]:
    """Room for what a split holds, and a share of it more."""
    held = split_bytes(pricer, split)
    return {d.name: int(n.total * (1 + spare)) for d, n in zip(pricer.profile.devices, held)}


def instance(seed: int) -> Instance:
    """Two devices, of which neither can hold all layers nor half of each is a good cut: exchanges are slow."""
    rng = Random(seed)
    speeds, link_s = [1.0, rng.choice([0.2, 0.5, 0.8])], rng.choice([1e-6, 5e-6, 2e-5])
    profile = make_profile(speeds, overhead_s=1e-7, link_s=link_s)
    pricer = Pricer(MODEL, profile, "float32", WORK)
    return pricer, caps_of(pricer, layer_split(pricer, rng.randint(1, 3), 0), rng.choice([0.0, 0.02, 0.1]))


def layer_split(pricer: Pricer, first: int, table: int) -> Split:
    """The first layers on the first device, the others on the second."""
    one, other = (proportional_split(pricer, weights) for weights in ([1, 0], [0, 1]))
    layers = (*one.layers[:first], *other.layers[first:])
    return Split((one, other)[table].embedding, layers, (one, other)[table].head)


def solved(pricer: Pricer, caps: dict[str, int]) -> Plan:
    request = Request(WORK, dtype="float32", cache_dtype="float32", caps=caps)
    plan = solve(pricer.model, "m", pricer.profile, request)
    check(plan, pricer.model, pricer.profile)
    return plan


def mixtures(pricer: Pricer, rng: Random, number: int) -> list[Split]:
    """Layers of two or three kinds at random, in runs, over every place of the tables."""
    kinds, tables = every_layer(pricer, 1), every_table(pricer.model, 2)
    found = []
    for _ in range(number):
        few = rng.sample(kinds, rng.choice([2, 3]))
        owners = sorted(rng.choices(range(len(few)), k=pricer.model.layers))
        embedding, head = rng.choice(tables)
        found.append(Split(embedding, tuple(few[i] for i in owners), head))
    return found


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 20, 37])
def test_no_layer_split_nor_equal_cut_is_faster(seed: int) -> None:
    """Every way to give whole layers to devices, and every cut that all layers have alike, that fits; what is mixed is
    not called optimal, and no price is below the bound.
    """
    pricer, caps = instance(seed)
    plan, limits = solved(pricer, caps), device_caps(pricer.profile, caps)
    owners = product([proportional_split(pricer, w).layers[0] for w in ([1, 0], [0, 1])], repeat=MODEL.layers)
    splits = [Split(e, layers, h) for layers, (e, h) in product(owners, every_table(MODEL, 2))]
    prices = [pricer.split_s(s) for s in splits if fits(split_bytes(pricer, s), pricer.profile, limits)]
    best_s = min(*prices, best_split(pricer, limits, 1)[0])
    assert plan.objective_s <= best_s * EQUAL
    assert plan.bound_s <= best_s * (1 + 1e-9)
    if len(set(plan.layers)) > 1:
        assert plan.status == "feasible"
        assert "memory taken for unlimited" in plan.space


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 20, 37])
def test_random_mixtures_are_hardly_faster(seed: int) -> None:
    """None of two thousand is below the bound, and none that fits is faster by more than 3 %."""
    pricer, caps = instance(seed)
    plan, limits = solved(pricer, caps), device_caps(pricer.profile, caps)
    splits = mixtures(pricer, Random(seed), 2000)
    prices = [pricer.split_s(s) for s in splits if fits(split_bytes(pricer, s), pricer.profile, limits)]
    assert plan.objective_s <= min(prices, default=float("inf")) * 1.03
    assert plan.bound_s <= min(prices, default=float("inf"))


def test_a_mixture_wins_where_exchanges_are_slow() -> None:
    """Room for three layers on the fast device: three there and one on the other, faster than any equal cut."""
    profile = make_profile([1.0, 0.3], overhead_s=1e-7, link_s=2e-5)
    pricer = Pricer(MODEL, profile, "float32", WORK)
    caps = caps_of(pricer, layer_split(pricer, 3, 0), 0.001)
    plan = solved(pricer, caps)
    assert len(set(plan.layers)) > 1
    assert plan.objective_s < 0.95 * best_split(pricer, device_caps(profile, caps), 1)[0]
    assert plan.reasons[0].startswith("layers are cut in several ways, since memory is short")


def mixed(profile: HardwareProfile, caps: tuple[int, ...], base: Split) -> list[Split]:
    return list(Mixer(Pricer(MODEL, profile, "float32", WORK), caps, base).splits())


def test_mixers_fit_and_keep_to_few_patterns() -> None:
    """All layers are there, at most three ways of cutting in runs, tables as they were, within the caps."""
    profile = make_profile([1.0, 0.3, 0.5], overhead_s=1e-7, link_s=5e-6)
    pricer = Pricer(MODEL, profile, "float32", WORK)
    base = proportional_split(pricer, [1, 1, 1])
    caps = tuple(int(1.05 * device.total) for device in split_bytes(pricer, base))
    found = mixed(profile, caps, base)
    for split in found:
        assert fits(split_bytes(pricer, split), profile, caps)
        assert len(split.layers) == MODEL.layers
        assert len(set(split.layers)) == runs(split.layers) <= MOST_PATTERNS
        assert (split.embedding, split.head) == (base.embedding, base.head)


def runs(layers: tuple[LayerPlan, ...]) -> int:
    return 1 + sum(a != b for a, b in pairwise(layers))


def test_with_memory_to_spare_nothing_is_mixed() -> None:
    """Layers do not depend on each other then; with one device or one layer there is nothing to mix either."""
    profile = make_profile([1.0, 0.3])
    pricer = Pricer(MODEL, profile, "float32", WORK)
    base = proportional_split(pricer, [1, 1])
    assert mixed(profile, (2**40,) * 2, base) == []
    one = make_model(layers=1, hidden=64, heads=2, kv_heads=2, head_dim=16, mlp=512, vocab=1024)
    single = msgspec.structs.replace(base, layers=base.layers[:1])
    assert list(Mixer(Pricer(one, profile, "float32", WORK), (1, 1), single).splits()) == []


def test_the_mixer_finds_the_best_counts() -> None:
    """Of its own patterns no counts in any order that fit are faster than the best that it makes by more than 2 %."""
    profile = make_profile([1.0, 0.4], overhead_s=1e-7, link_s=5e-6)
    pricer = Pricer(MODEL, profile, "float32", WORK)
    base = proportional_split(pricer, [2, 1])
    caps = tuple(int(1.02 * device.total) for device in split_bytes(pricer, base))
    mixer = Mixer(pricer, caps, base)
    best_s = float("inf")
    for few in combinations_with_replacement(mixer.patterns, MODEL.layers):
        for layers in set(permutations(few)) if len(set(few)) <= MOST_PATTERNS else ():
            split = msgspec.structs.replace(base, layers=layers)
            if fits(split_bytes(pricer, split), profile, caps):
                best_s = min(best_s, pricer.split_s(split))
    ours_s = min([*map(pricer.split_s, mixer.splits()), pricer.split_s(base)])
    assert ours_s <= best_s * 1.02


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_the_fastest_of_all_choices(seed: int) -> None:
    """Five patterns, seven layers, two devices: as fast as the best of every count of every pattern, three at most."""
    rng = np.random.default_rng(seed)
    seconds, each = rng.uniform(1, 5, 5), rng.integers(0, 10, (5, 2))
    free = rng.integers(5, 45, 2)
    every = [n for n in product(range(8), repeat=5) if sum(n) == 7 and sum(map(bool, n)) <= 3]
    fitting = [n for n in every if (np.array(n) @ each <= free).all()]
    found = fastest_counts(seconds, each, free, 7)
    if not fitting:
        assert found == [0] * 5
        return
    assert tuple(found) in fitting
    assert np.dot(found, seconds) == pytest.approx(min(np.dot(n, seconds) for n in fitting))


def test_counts_of_very_many_layers() -> None:
    """A model of 5,000 layers is shared out in whole, quickly, within what fits."""
    seconds, each, free = (
        np.array([1.0, 2.0, 3.0]),
        np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]]),
        np.array([4000.0, 8000.0]),
    )
    found = fastest_counts(seconds, each, free, 5000)
    assert sum(found) == 5000
    assert (np.array(found) @ each <= free).all()
