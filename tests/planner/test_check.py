"""`check` against plans that someone has tampered with."""

from __future__ import annotations

import subprocess
import sys

import pytest
from msgspec.structs import replace
from profiles import make_model, make_profile

from tpplan.planner.check import check
from tpplan.planner.plan import BlockPlan, LayerPlan, Plan, Workload
from tpplan.planner.request import Request
from tpplan.planner.solve import solve

MODEL, PROFILE = make_model(layers=3, vocab=4096), make_profile([1.0, 0.6])
REQUEST = Request(
    workload=Workload(64, 32, 1, 256),
    attention_split=(2, 1),
    mlp_split=(1024, 512),
    attention_strategy="row",
    mlp_strategy="column",
)
PLAN = solve(MODEL, "m", PROFILE, REQUEST)


def with_layer(**changes: BlockPlan) -> Plan:
    """The plan with its middle layer changed."""
    first, middle, last = PLAN.layers
    return replace(PLAN, layers=(first, replace(middle, **changes), last))


def mlp(**changes: object) -> Plan:
    return with_layer(mlp=replace(PLAN.layers[1].mlp, **changes))


def used(**changes: object) -> Plan:
    return replace(PLAN, device_use=(replace(PLAN.device_use[0], **changes), PLAN.device_use[1]))


ROW = BlockPlan("row", ((0, 6), (6, 9)))
TAMPERED = {
    "schema version": (replace(PLAN, schema_version=99), "schema version 99"),
    "another model": (replace(PLAN, model_fingerprint="0" * 16), "another model"),
    "no devices": (replace(PLAN, devices=()), "missing or repeated"),
    "a device twice": (replace(PLAN, devices=("cpu:0", "cpu:0")), "missing or repeated"),
    "a layer less": (replace(PLAN, layers=PLAN.layers[:2]), "2 layers, the model 3"),
    "no workload": (replace(PLAN, workload=Workload(0, 1, 1, 1)), "at least one token"),
    "overlap": (with_layer(attention=replace(ROW, units=((0, 6), (3, 9)))), "layer 1 attention.*does not follow"),
    "hole": (with_layer(attention=replace(ROW, units=((0, 3), (6, 9)))), "does not follow on 3"),
    "not all": (with_layer(attention=replace(ROW, units=((0, 3), (3, 6)))), "end at 6, not at 9"),
    "too much": (with_layer(attention=replace(ROW, units=((0, 6), (6, 12)))), "end at 12, not at 9"),
    "wrong order": (with_layer(attention=replace(ROW, units=((3, 9), (0, 3)))), "does not follow"),
    "backwards": (mlp(units=((0, 1536), (1536, 1024))), "does not follow"),
    "a device more": (with_layer(attention=replace(ROW, units=((0, 6), (6, 9), (9, 9)))), "3 ranges for 2 devices"),
    "not a unit": (mlp(units=((0, 1000), (1000, 1536))), "not a multiple of 32"),
    "output not a unit": (mlp(outputs=((0, 100), (100, 576))), "not a multiple of 32"),
    "row with outputs": (with_layer(attention=replace(ROW, outputs=((0, 288), (288, 576)))), "no outputs of its own"),
    "column without": (mlp(outputs=()), "0 ranges for 2 devices"),
    "output outside": (mlp(units=((0, 1536), (1536, 1536)), outputs=((0, 288), (288, 576))), "without units"),
    "untied": (replace(PLAN, head=((0, 1024), (1024, 4096)), embedding=((0, 2048), (2048, 4096))), "tied"),
    "vocabulary": (replace(PLAN, head=((0, 100), (100, 4096))), "not a multiple of 1024"),
    "bytes": (used(bytes=1), "the plan says 1"),
    "cap": (used(cap_bytes=PLAN.device_use[0].bytes - 1), "its cap is"),
    "names": (used(name="cpu:9"), "device_use"),
}
WITH_PROFILE = {
    "another profile": (replace(PLAN, profile_fingerprint="0" * 16), "another profile"),
    "swapped": (
        replace(
            PLAN,
            devices=PLAN.devices[::-1],
            device_use=(replace(PLAN.device_use[0], name="cpu:1"), replace(PLAN.device_use[1], name="cpu:0")),
        ),
        "where the profile has",
    ),
    "unknown": (
        replace(
            PLAN, devices=("cpu:9", "cpu:1"), device_use=(replace(PLAN.device_use[0], name="cpu:9"), PLAN.device_use[1])
        ),
        "no device 'cpu:9'",
    ),
    "cap above free": (used(cap_bytes=2**50), "free bytes"),
    "latency": (replace(PLAN, predicted=replace(PLAN.predicted, decode_s_per_token=1e-9)), "layer graph says"),
    "objective": (replace(PLAN, objective_s=float("nan")), "layer graph says"),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_tampering_is_caught_without_a_profile(kind: str) -> None:
    """Each broken rule is one clear line, and no profile is needed to see it."""
    plan, reason = TAMPERED[kind]
    with pytest.raises(ValueError, match=reason) as caught:
        check(plan, MODEL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", WITH_PROFILE)
def test_tampering_is_caught_with_the_profile(kind: str) -> None:
    """Devices, caps and promised latency are compared with the profile where there is one."""
    plan, reason = WITH_PROFILE[kind]
    with pytest.raises(ValueError, match=reason):
        check(plan, MODEL, PROFILE)


def test_an_honest_plan_passes() -> None:
    """The solver's plan passes with and without the profile, and so does one with layers that differ."""
    check(PLAN, MODEL)
    check(PLAN, MODEL, PROFILE)
    assert isinstance(PLAN.layers[0], LayerPlan)


def test_check_never_loads_the_solver() -> None:
    """Importing `check` leaves OR-Tools and torch alone."""
    code = "import sys, tpplan.planner.check; sys.exit(bool({'ortools', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
