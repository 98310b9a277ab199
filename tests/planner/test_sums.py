"""Ways of adding up partial sums: all are priced as the graph has them, and the fastest that fits is taken."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest
from every import shares
from profiles import make_model, make_profile

from tpplan.hwprofiles.machine import load_hardware
from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.baselines import proportional_split, split_bytes
from tpplan.planner.memory import fits
from tpplan.planner.plan import HIDDEN_UNIT, LayerPlan, Range, Split, Workload, members, size
from tpplan.planner.price import Pricer
from tpplan.planner.simulate import simulate
from tpplan.planner.sums import SumWays, with_best_sums
from tpplan.planner.units import Units

MODEL = make_model(layers=4, hidden=512, heads=8, kv_heads=4, mlp=1024, vocab=4096)
SLOW_LINKS = load_hardware("rtx3090@4.0x4+rtx3090@3.0x1+rtx3090@3.0x4")


def pricer_on(profile: HardwareProfile, prompt: int = 512) -> Pricer:
    return Pricer(MODEL, profile, "float32", Workload(prompt, 32, 1, 1024))


def summed(split: Split, attention: tuple[tuple[Range, ...], ...], mlp: tuple[tuple[Range, ...], ...]) -> Split:
    """With given sums of decode and prefill in every layer."""
    names = ("decode_sums", "prefill_sums")
    layer = split.layers[0]
    blocks = [
        msgspec.structs.replace(block, **dict(zip(names, sums)))
        for block, sums in ((layer.attention, attention), (layer.mlp, mlp))
    ]
    return msgspec.structs.replace(split, layers=(LayerPlan(*blocks),) * len(split.layers))


def every_way(pricer: Pricer, split: Split) -> list[Split]:
    ways = [(), *SumWays(pricer).ways((0, 1, 2))]
    return [summed(split, (a, a), (b, c)) for a, b, c in product(ways, repeat=3)]


def test_every_way_lasts_as_long_as_it_plays() -> None:
    """All five ways on three CPU devices, in both blocks and phases, against the steps played one by one."""
    pricer = pricer_on(make_profile([1.0, 0.8, 0.6], link_s=1e-5), 64)
    splits = every_way(pricer, proportional_split(pricer, [1, 1, 1]))
    assert len(splits) == 5**3
    for split in splits[::4]:
        for phase in ("decode", "prefill"):
            assert simulate(split, pricer, phase).length_s == pytest.approx(pricer.phase_s(split, phase), rel=1e-9)


@pytest.mark.parametrize("profile", [SLOW_LINKS, make_profile([1.0, 0.5, 0.3], link_s=2e-5), make_profile([1.0] * 3)])
def test_the_fastest_way_is_found(profile: HardwareProfile) -> None:
    """No combination of ways is faster than the one taken, which is never slower than one-shot sums."""
    pricer = pricer_on(profile)
    plain = proportional_split(pricer, [3, 2, 2])
    best = with_best_sums(pricer, plain, lambda _: True)
    assert pricer.split_s(best) <= pricer.split_s(plain)
    ways = [(), *SumWays(pricer).ways((0, 1, 2))]
    for phase, name in (("decode", 0), ("prefill", 1)):
        options = [[((), ())[:name] + (w,) + ((), ())[name + 1 :] for w in ways] for _ in range(2)]
        fastest_s = min(pricer.phase_s(summed(plain, a, b), phase) for a, b in product(*options))
        assert pricer.phase_s(best, phase) == pytest.approx(fastest_s, rel=1e-9)


def test_slow_links_sum_in_parts() -> None:
    """Where long messages go over slow links, prefill reduces in parts, more columns where the link is faster."""
    pricer = pricer_on(SLOW_LINKS)
    best = with_best_sums(pricer, proportional_split(pricer, [3, 2, 2]), lambda _: True)
    sums = SumWays(pricer).in_parts((0, 1, 2))
    assert best.layers[0].mlp.prefill_sums == sums
    assert sums[-1][1] == MODEL.hidden
    assert size(sums[0]) > size(sums[2]) > size(sums[1]) > 0


def test_no_other_parts_are_much_better() -> None:
    """Parts by link speed are within 5 % of the best of all ways to share the columns out, over a whole prefill."""
    pricer = pricer_on(SLOW_LINKS)
    plain, units = proportional_split(pricer, [3, 2, 2]), Units(MODEL.hidden, HIDDEN_UNIT)
    every = [((), units.spans(counts)) for counts in shares(units.count, 3)]
    best_s = min(pricer.prefill_s(summed(plain, parts, parts)) for parts in every)
    ours = ((), SumWays(pricer).in_parts((0, 1, 2)))
    assert pricer.prefill_s(summed(plain, ours, ours)) <= best_s * 1.05


def test_a_reducer_without_room_does_not_reduce() -> None:
    """The buffer of a reducer counts: with caps at what one-shot sums need, one-shot sums it is."""
    pricer = pricer_on(SLOW_LINKS)
    plain = proportional_split(pricer, [3, 2, 2])
    caps = tuple(device.total for device in split_bytes(pricer, plain))
    best = with_best_sums(pricer, plain, lambda split: fits(split_bytes(pricer, split), SLOW_LINKS, caps))
    assert best == plain
    assert with_best_sums(pricer, plain, lambda _: True) != plain


def test_blocks_of_one_device_need_no_sums() -> None:
    """Nothing is added up where one device has all, whatever the links."""
    pricer = pricer_on(SLOW_LINKS)
    alone = proportional_split(pricer, [0, 1, 0])
    assert with_best_sums(pricer, alone, lambda _: True) == alone
    assert members(alone.layers[0].mlp.units) == (1,)
