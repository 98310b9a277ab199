"""Balanced shares: they fit, and the slowest device is nearly as fast as under any other shares."""

from __future__ import annotations

import pytest
from every import shares
from profiles import make_model, make_profile

from tpplan.hwprofiles.machine import load_hardware
from tpplan.planner.baselines import split_bytes
from tpplan.planner.heuristic import Balancer
from tpplan.planner.memory import fits
from tpplan.planner.model_files import load_model
from tpplan.planner.plan import Workload, devices_used, members, size
from tpplan.planner.price import Pricer
from tpplan.planner.stage_costs import StageCosts

MODEL = make_model(layers=4, heads=12, kv_heads=6, mlp=1536, vocab=16384)
PRICER = Pricer(MODEL, make_profile([1.0, 0.6, 0.3], overhead_s=1e-8), "float32", Workload(64, 32, 1, 256))
ROOMY = (2**40,) * 3


@pytest.mark.parametrize("name", ["attention", "mlp"])
@pytest.mark.parametrize("held", [(0, 1, 2), (0, 2), (1, 2)])
def test_the_slowest_is_nearly_as_fast_as_can_be(name: str, held: tuple[int, ...]) -> None:
    """Within 5 % of the best of all shares among the same devices, computing and pushing one block."""
    costs = StageCosts(PRICER, replicate_kv=True)

    def slowest_s(counts: tuple[int, ...]) -> float:
        return max(sum(costs.share(0, name, "row", d, u, False)[:4]) for d, u in enumerate(counts) if u)  # type: ignore[arg-type]

    units = costs.units(name)  # type: ignore[arg-type]
    layer = Balancer(PRICER, ROOMY, replicate_kv=True).pattern(held)
    assert layer is not None
    spans = getattr(layer, name).units
    assert set(members(spans)) <= set(held)
    ours_s = slowest_s(tuple(-(-size(span) // units.unit) for span in spans))
    assert ours_s <= 1.05 * min(slowest_s(counts) for counts in shares(units.count, 3, held) if any(counts))


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5, 0.4, 0.3])
def test_what_does_not_fit_is_shared_otherwise(share: float) -> None:
    """The less a fast device may hold, the less it does, all three still taking part; every split that comes fits."""
    whole = split_bytes(PRICER, next(iter(Balancer(PRICER, ROOMY, True).splits())))
    caps = (int(whole[0].total * share), 2**40, 2**40)
    splits = list(Balancer(PRICER, caps, replicate_kv=True).splits())
    assert devices_used(splits[0]) == {0, 1, 2}
    assert all(fits(split_bytes(PRICER, split), PRICER.profile, caps) for split in splits)


def test_nothing_fits_and_nothing_comes() -> None:
    """Caps below what any split needs: no splits, and no error."""
    assert list(Balancer(PRICER, (1000,) * 3, True).splits()) == []
    assert Balancer(PRICER, (1000,) * 3, True).pattern((0, 1, 2)) is None


def test_sets_grow_smaller() -> None:
    """Splits come over all devices, then over ever fewer, down to one; a device ten times slower goes first."""
    slow = Pricer(MODEL, make_profile([1.0, 0.1, 0.9]), "float32", Workload(64, 32, 1, 256))
    used = [devices_used(split) for split in Balancer(slow, ROOMY, True).splits()]
    assert [len(devices) for devices in used] == [3, 2, 1]
    assert used[1] == {0, 2}


def test_70b_on_eight_devices() -> None:
    """Real sizes: a split over all eight cards that fits, whose busiest device is not much busier than the others."""
    model = load_model("examples/llama-3.1-70b-int4.json")
    profile = load_hardware("2xrtx3090+2xrtx3060+2xrtx4090+2xrtx4060ti")
    pricer = Pricer(model, profile, "int4", Workload(), "bfloat16")
    caps = tuple(device.free_bytes for device in profile.devices)
    split = Balancer(pricer, caps, replicate_kv=False).split(tuple(range(8)))
    assert split is not None
    assert fits(split_bytes(pricer, split), profile, caps)
    assert all(d in devices_used(split) for d in range(8))
