"""Lines below the costs of shares: never above what any share costs, the ragged last unit and kinks included."""

from __future__ import annotations

import numpy as np
import pytest

from tpplan.hwprofiles.machine import load_hardware
from tpplan.planner.model_files import load_model
from tpplan.planner.plan import Strategy, Workload
from tpplan.planner.request import Request
from tpplan.planner.share_lines import Curve, lines_below
from tpplan.planner.stage_costs import Costs, StageCosts
from tpplan.planner.units import Units
from tpplan.planner.wishes import completed, pricer_of

SAME = 1 + 1e-9


def above(curve: Curve, pushed: bool) -> float:
    """By how much the highest line at some possible share exceeds its cost, in parts of it."""
    lines, units = lines_below(curve, pushed), curve.units
    whole = np.arange(1, units.count)
    shares = np.unique([*whole, *(whole - 1 + units.least), units.whole])
    exact = np.array([[curve.seconds(float(u), phase, pushed) for u in shares] for phase in (0, 1)])
    highest = (lines.slopes[:, :, None] * shares + lines.bases[:, :, None]).max(axis=0)
    return float((highest / exact).max())


@pytest.mark.parametrize("last", [1, 5, 19, 31, 32])
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_the_ragged_unit_counts_as_what_it_is(count: int, last: int) -> None:
    """A fixed time and one for each value: the line is the cost itself, of the ragged unit alone too."""
    units = Units(32 * (count - 1) + last, 32)

    def costs(share: float) -> Costs:
        return 1e-6 + 1e-8 * units.of(share), 2e-6, 1e-7, 1e-7, 0.0

    curve = Curve(costs, units)
    assert above(curve, pushed=True) == pytest.approx(1.0, abs=1e-9)
    lines = lines_below(curve, pushed=False)
    assert (lines.slopes * units.least + lines.bases)[0, 0] == pytest.approx(costs(units.least)[0])


@pytest.mark.parametrize("kink", [2, 5, 6, 11, 40, 99, 400])
def test_a_kink_between_samples_is_found(kink: int) -> None:
    """Bytes bound small shares, arithmetic large ones, wherever between samples that turns."""
    curve = Curve(lambda u: (1 + 0.01 * u, max(1 + 0.01 * u, 1 + 0.01 * kink + u - kink), 0.0, 0.0, 0.0), Units(896, 1))
    assert above(curve, pushed=False) <= SAME


@pytest.mark.parametrize("model", ["qwen2.5-7b", "llama-2-7b-int4-actorder", "llama-3.1-70b-int4"])
@pytest.mark.parametrize("strategy", ["row", "column"])
def test_no_line_is_above_a_device_of_the_catalogue(model: str, strategy: Strategy) -> None:
    """Both blocks, with and without pushes, for a long prompt."""
    spec, profile = load_model(f"examples/{model}.json"), load_hardware("rtx5090+rtx4060ti+rtx2080ti+cpu:ddr5-2ch")
    request = completed(Request(Workload(2100, 8, 4, 4096)), spec, profile)
    costs = StageCosts(pricer_of(request, spec, profile), spec.group > 1)
    for d in range(len(profile.devices)):
        first = Curve(lambda u, d=d: costs.share(0, "attention", strategy, d, u, False), costs.units("attention"))
        outputs = Curve(lambda u, d=d: costs.outputs(0, "mlp", d, u, False), costs.hidden)
        assert max(above(curve, pushed) for curve in (first, outputs) for pushed in (True, False)) <= SAME
