"""What a plan uses is seen, and taking it away finds a split without it that is no faster."""

from __future__ import annotations

import msgspec
import pytest
from boxes import example
from plans import outputs_like, ranges
from wins import USES, Case, wins

from tpplan.hwprofiles.machine import load_hardware
from tpplan.planner.plan import BlockPlan, LayerPlan, Range, Split, Workload
from tpplan.planner.request import Request
from tpplan.planner.solve import solve

MODEL = msgspec.structs.replace(example("llama-3.1-8b-int4"), layers=4, windows=(0,) * 4)
SUMS = ranges([2048, 1024, 1024])


@pytest.fixture(scope="module")
def case() -> Case:
    machine = load_hardware("rtx3090@4.0x8+rtx3060@4.0x4+cpu:ddr4-2ch")
    return Case.of(MODEL, machine, Request(Workload(context=1024), time_limit_s=5.0))


def _row(sizes: list[int], sums: tuple[Range, ...] = ()) -> BlockPlan:
    return BlockPlan("row", ranges(sizes), (), sums, ())


def _split(attention: BlockPlan, mlp: BlockPlan, head: list[int], *others: LayerPlan) -> Split:
    layers = (LayerPlan(attention, mlp),) * (4 - len(others))
    return Split(ranges(head), (*layers, *others), ranges(head))


VOCAB, ROW = [65536, 62720, 0], _row([16, 16, 0])
MLP = _row([8192, 6144, 0])
COLUMN = BlockPlan("column", ranges([16, 16, 0]), ranges(outputs_like([16, 16, 0], 4096)))
ON_ONE = LayerPlan(_row([32, 0, 0]), _row([14336, 0, 0]))


@pytest.mark.parametrize(
    ("split", "used"),
    [
        (_split(ROW, MLP, VOCAB), {"row", "a device left out of all layers"}),
        (_split(COLUMN, MLP, VOCAB), {"row", "column", "a device left out of all layers"}),
        (_split(_row([18, 14, 0]), MLP, VOCAB), {"row", "shared KV heads", "a device left out of all layers"}),
        (_split(ROW, _row([8192, 4096, 2048]), VOCAB), {"row", "other devices for MLP than attention"}),
        (_split(ROW, _row([8192, 6144, 0], ranges([0, 0, 4096])), VOCAB), {"row", "sums on the CPU"}),
        (_split(ROW, _row([8192, 4096, 2048], SUMS), VOCAB), {"row", "sums in parts"}),
        (_split(ROW, MLP, VOCAB, ON_ONE), {"row", "layers cut in several ways"}),
        (_split(ON_ONE.attention, ON_ONE.mlp, [128256, 0, 0]), set()),
    ],
)
def test_a_split_uses_what_it_was_made_with(split: Split, used: set[str], case: Case) -> None:
    """And nothing besides, apart from the device sets that follow from it."""
    found = {name for name, uses in USES.items() if uses(split, case)}
    sets = {"other devices for MLP than attention", "other devices for the head than layers"}
    assert found - sets - {"a device left out of all layers"} == used - sets - {"a device left out of all layers"}
    assert used <= found


def test_without_what_a_plan_uses_nothing_is_faster(case: Case) -> None:
    plan = solve(case.model, "", case.profile, case.request)
    found = wins(plan, case)
    assert found
    assert all(slower is None or slower > -0.005 for slower in found.values())
