"""Shapes, links and limits at the edge of what may be asked: a sound plan that says what it is worth, or a plain no."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from linked import with_links
from profiles import make_model, make_profile, with_format

from tpplan.hwprofiles.machine import load_hardware
from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.check import check
from tpplan.planner.errors import Infeasible, Undecided
from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import ModelSpec, Quant
from tpplan.planner.plan import Plan, Workload, kv_span, members, size
from tpplan.planner.request import Request
from tpplan.planner.solve import solve

FREE = {"overhead_s": 1e-8, "link_s": 1e-8}
THREE = make_profile([1.0, 0.9, 0.8], **FREE)
WORK = Workload(64, 32, 1, 256)
EIGHT = "2xrtx3090@4.0x8+2xrtx3060@4.0x4+2xrtx4090+2xrtx4060ti"
SIXTEEN = "4xrtx3090@4.0x8+4xrtx3060@4.0x4+4xrtx4090+4xrtx4060ti@4.0x4"


def tiny(**changes: Any) -> ModelSpec:
    shape = {"layers": 2, "hidden": 64, "heads": 6, "kv_heads": 3, "head_dim": 16, "mlp": 128, "vocab": 4096}
    return make_model(**shape | changes)


def solved(model: ModelSpec, profile: HardwareProfile, **wishes: Any) -> Plan:
    """Checked, and as fast as any baseline that fits, unless shares are given."""
    plan = solve(model, "m", profile, Request(**{"workload": WORK, "time_limit_s": 2} | wishes))
    check(plan, model, profile)
    baselines = [b.objective_s for b in plan.baselines.values() if b.objective_s]
    assert "attention_split" in wishes or plan.objective_s <= min(baselines, default=1e9)
    assert 0 <= plan.bound_s <= plan.objective_s
    return plan


SHAPES = {
    "one layer": tiny(layers=1),
    "one KV head": tiny(kv_heads=1),
    "as many KV heads as heads": tiny(kv_heads=6),
    "one head": tiny(heads=1, kv_heads=1),
    "fewer KV heads than devices": tiny(heads=4, kv_heads=2),
    "MLP smaller than a unit": tiny(mlp=7),
    "vocabulary smaller than a unit": tiny(vocab=5),
    "hidden smaller than a unit": tiny(hidden=24),
    "everything smaller than a unit": tiny(layers=1, heads=1, kv_heads=1, head_dim=2, hidden=2, mlp=1, vocab=1),
    "a value more than a unit": tiny(hidden=33, mlp=33, vocab=1025),
    "untied, one unit each": tiny(tied_embeddings=False, vocab=1000, mlp=30),
    "every layer another window": tiny(layers=3, windows=(0, 16, 32)),
    "groups wider than heads": tiny(hidden=192, heads=12, mlp=384, quant=Quant(4, 64, True)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3])
def test_odd_shapes_are_planned(shape: str, count: int) -> None:
    """On one device and on three: a sound plan, all layers of a window alike; with one device there is one plan."""
    model, profile = SHAPES[shape], with_format(make_profile([1.0, 0.9, 0.8][:count], **FREE), "int4", 0.4)
    plan = solved(model, profile)
    assert len(set(zip(plan.layers, model.windows))) == len(set(model.windows))
    if count == 1:
        assert plan.status == "optimal"
        assert plan.gap <= 0.001


def test_one_kv_head_is_read_by_several_devices() -> None:
    """Where exchanges cost nothing and attention is all there is, query heads of one KV head go to three devices, each
    with a cache of that head; asked to keep it whole, one device has it.
    """
    model = tiny(kv_heads=1, heads=12, mlp=32, vocab=1024, layers=4)
    work = Workload(1500, 200, 1, 2048)
    spans = solved(model, THREE, workload=work).layers[0].attention.units
    assert len(members(spans)) == 3
    assert all(kv_span(span, model.group) == (0, 1) for span in spans)
    whole = solved(model, THREE, workload=work, replicate_kv=False)
    assert [size(span) for span in whole.layers[0].attention.units].count(12) == 1


@pytest.mark.parametrize("rate", [1.0, 1e3, 1e18])
def test_links_at_the_ends_of_what_may_be(rate: float) -> None:
    """A byte a second over a shared port: one device has all. Beyond any link there is: still a sound plan."""
    profile = with_links(make_profile([1.0, 0.9], kind="cuda", **FREE), [rate] * 2, ["a", "a"], {"a": rate}, rate)
    plan = solved(tiny(), profile, dtype="float32")
    if rate < 1e6:
        assert sum(use.bytes > 0 for use in plan.device_use) == 1


@pytest.mark.parametrize("seconds", [1e-10, 9e3])
def test_times_at_the_ends_of_what_may_be(seconds: float) -> None:
    """Every step of one device in no time or in hours: no overflow, and the other device has all or nothing."""
    profile = make_profile([1.0, 0.9])
    ops = tuple(msgspec.structs.replace(p, alone_s=seconds, together_s=seconds) for p in profile.devices[1].ops)
    odd = msgspec.structs.replace(profile.devices[1], ops=ops)
    plan = solved(tiny(), msgspec.structs.replace(profile, devices=(profile.devices[0], odd)))
    assert (plan.device_use[1].bytes > 0) == (seconds < 1)


@pytest.mark.parametrize("limit_s", [1e-6, 0.1])
def test_eight_devices_and_no_time(limit_s: float) -> None:
    """A 70B model: soon the best plan known, at least as fast as every baseline, which claims no more than it knows."""
    began = time.perf_counter()
    plan = solved(load_model("examples/llama-3.1-70b-int4.json"), load_hardware(EIGHT), time_limit_s=limit_s)
    assert time.perf_counter() - began < 10
    assert plan.status == "feasible"
    assert plan.gap > 0.02
    assert "proven" not in plan.reasons[0]
    if plan.gap == 1:
        assert plan.space.startswith("no proof")


def test_sixteen_devices() -> None:
    """More devices than sets can be listed for: a sound plan within a short limit, with its gap."""
    began = time.perf_counter()
    plan = solved(load_model("examples/llama-3.1-8b.json"), load_hardware(SIXTEEN), time_limit_s=2)
    assert time.perf_counter() - began < 10
    assert 0 < plan.gap <= 1


@pytest.mark.parametrize(
    "wishes",
    [
        {"attention_split": (3, 0, 0), "caps": {"cpu:0": 0}},
        {"mlp_split": (0, 128, 0), "mlp_strategy": "row", "caps": {"cpu:1": 1000}},
        {"attention_split": (1, 1, 1), "attention_strategy": "column", "caps": dict.fromkeys(("cpu:1", "cpu:2"), 0)},
    ],
)
def test_wishes_that_contradict_each_other(wishes: dict[str, Any]) -> None:
    """Shares by hand where there is no room: infeasible in one line that names them and what would help."""
    with pytest.raises(Infeasible) as caught:
        solved(tiny(), THREE, **wishes)
    assert "\n" not in str(caught.value)
    assert "-split" in str(caught.value)
    assert "; it fits with " in str(caught.value)


def test_wishes_that_agree_by_a_hair() -> None:
    """All heads on one device, all columns on another, column strategy for what one device has: as asked."""
    wishes = {"attention_split": (3, 0, 0), "mlp_split": (0, 0, 128), "attention_strategy": "column"}
    plan = solved(tiny(), THREE, **wishes)
    layer = plan.layers[0]
    assert (members(layer.attention.units), members(layer.mlp.units)) == ((0,), (2,))
    assert layer.attention.strategy == "column"


@pytest.mark.parametrize(("layers", "width", "devices"), [(1, 2**17, 2), (1, 2**17, 9), (1000, 2**14, 2)])
def test_sizes_that_overflow_nothing(layers: int, width: int, devices: int) -> None:
    """Nearly the most weights, cache and memory that may be asked for, on few devices or many: a plan or a plain no."""
    heads = {"heads": width // 128, "kv_heads": 16, "head_dim": 128}
    model = make_model(layers=layers, hidden=width, mlp=3 * width, vocab=2**20, context=2**22, **heads)
    profile = make_profile([1.0, 0.7] * 5, free_bytes=2**50, host_bytes=2**50)
    profile = msgspec.structs.replace(profile, devices=profile.devices[:devices])
    context = 2**22 // layers
    work = Workload(context // 2, context // 4, 4, context)
    try:
        plan = solve(model, "m", profile, Request(work, dtype="bfloat16", time_limit_s=1))
    except (ValueError, Undecided) as error:
        said = str(error)
    else:
        check(plan, model, profile)
        said = plan.space
    assert "\n" not in said
    assert "MODEL_INVALID" not in said
