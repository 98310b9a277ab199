"""Bytes per device against sums done by hand."""

from __future__ import annotations

import pytest
from profiles import make_model, make_profile

from tpplan.planner.baselines import proportional_split
from tpplan.planner.memory import device_bytes, device_caps, fits, host_cap
from tpplan.planner.plan import Workload
from tpplan.planner.price import Pricer


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_one_device_holds_the_whole_model(tied: bool, dtype: str, size: int) -> None:
    """All weights on one device: every matrix once in the plan's format, every norm in float32."""
    model = make_model(tied_embeddings=tied)
    pricer = Pricer(model, make_profile([1.0]), dtype, Workload())
    held = device_bytes(model, proportional_split(pricer, [1]), Workload(), dtype)[0]
    assert held.weights == model.weights * size + 4 * 576 * (2 * 30 + 1)
    assert held.cache == 30 * 2 * 3 * 64 * 4096 * 4


@pytest.mark.parametrize("strategies", [("row", "row"), ("column", "column"), ("row", "column")])
def test_shares_add_up(strategies: tuple[str, str]) -> None:
    """Split over two devices, matrices and cache add up to the whole; only norms are held twice."""
    model = make_model()
    pricer = Pricer(model, make_profile([1.0, 0.5]), "float32", Workload())
    split = proportional_split(pricer, [2, 1], (strategies[0], None), (strategies[1], None))
    held = device_bytes(model, split, Workload(), "float32")
    assert sum(h.weights for h in held) == model.weights * 4 + 2 * 4 * 576 * (2 * 30 + 1)
    assert sum(h.cache for h in held) == 30 * 2 * 3 * 64 * 4096 * 4


def test_a_device_without_a_share_holds_nothing() -> None:
    """A device outside every block costs no byte."""
    pricer = Pricer(make_model(), make_profile([1.0, 0.5]), "float32", Workload())
    held = device_bytes(make_model(), proportional_split(pricer, [1, 0]), Workload(), "float32")
    assert held[1].total == 0


def test_cpu_devices_share_the_host() -> None:
    """Two CPU devices within their caps do not fit when the host's memory is less than their sum."""
    roomy, tight = make_profile([1.0, 1.0]), make_profile([1.0, 1.0], host_bytes=600 * 2**20)
    pricer = Pricer(make_model(), roomy, "float32", Workload())
    held = device_bytes(make_model(), proportional_split(pricer, [1, 1]), Workload(), "float32")
    assert fits(held, roomy, device_caps(roomy, {}))
    assert all(h.total < host_cap(tight) for h in held)
    assert not fits(held, tight, device_caps(tight, {}))


def test_caps_lower_but_never_raise() -> None:
    """A cap below the free memory counts, one above it does not, and an unknown name is refused."""
    profile = make_profile([1.0, 1.0], free_bytes=1000)
    assert device_caps(profile, {"cpu:0": 10, "cpu:1": 10**9}) == (10, 950)
    with pytest.raises(ValueError, match="no device 'gpu'"):
        device_caps(profile, {"gpu": 1})
