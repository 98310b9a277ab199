"""Requests, models and profiles that cannot be: refused in one line with the fix, or planned for, never a crash."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from profiles import make_model, make_profile

from tpplan.hwprofiles.machine import load_hardware
from tpplan.hwprofiles.profile import HardwareProfile, Link
from tpplan.planner.check import check
from tpplan.planner.errors import Infeasible, Undecided
from tpplan.planner.plan import GPU_PREFILL_CHUNK, Workload, members, size
from tpplan.planner.request import Request
from tpplan.planner.solve import solve
from tpplan.planner.wishes import completed

MIB = 2**20
TINY = {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp": 128, "vocab": 2048}
SHORT = Request(Workload(prompt_tokens=64, new_tokens=32, context=256), time_limit_s=2)


def refused(model: Any, profile: HardwareProfile, request: Request) -> str:
    """The one line of a ValueError that is not about memory."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        solve(model, "m", profile, request)
    assert not isinstance(caught.value, Infeasible)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def wish(**changes: Any) -> Request:
    return msgspec.structs.replace(SHORT, **changes)


def damaged(**changes: Any) -> HardwareProfile:
    """Two devices, the second changed."""
    profile = make_profile([1.0, 0.6])
    other = msgspec.structs.replace(profile.devices[1], **changes)
    return msgspec.structs.replace(profile, devices=(profile.devices[0], other))


@pytest.mark.parametrize(
    "kind", ["embed", "norm", "linear", "rope", "attention", "swiglu", "residual", "argmax", "push", "pull"]
)
def test_missing_operations_are_named(kind: str) -> None:
    """A device without figures for one kind of step: the line names kind, device and the command that measures it."""
    ops = tuple(p for p in make_profile([1.0]).devices[0].ops if p.op != kind)
    said = refused(make_model(**TINY), damaged(ops=ops), SHORT)
    assert f"no {kind} figures" in said
    assert "cpu:1" in said
    assert "run `tpplan profile`" in said


def test_a_format_that_was_not_measured_names_those_that_were() -> None:
    """int4 on a profile of float32 and bfloat16."""
    said = refused(make_model(**TINY), make_profile([1.0]), wish(dtype="int4"))
    assert said == (
        "the profile has no int4 figures for cpu:0: choose --dtype float32 or bfloat16, or run `tpplan profile`"
    )


BAD = [0.0, -1.0, math.nan, math.inf]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("field", ["read_bytes_per_s", "read_bytes_per_s_alone", "matmul_flops_per_s"])
def test_impossible_rates_are_refused(field: str, value: float) -> None:
    """Zeros, negatives, NaN and infinity in any rate."""
    said = refused(make_model(**TINY), damaged(**{field: value}), SHORT)
    assert field in said
    assert "cpu:1" in said
    assert said.endswith("run `tpplan profile`")


@pytest.mark.parametrize("value", BAD)
def test_impossible_times_and_links_are_refused(value: float) -> None:
    """The same in a step's time, a link, a device's fixed cost and the rendezvous."""
    ops = make_profile([1.0]).devices[0].ops
    bad = msgspec.structs.replace(ops[0], together_s=value)
    profile, model = make_profile([1.0, 0.6]), make_model(**TINY)
    assert "impossible time for linear" in refused(model, damaged(ops=(bad, *ops[1:])), SHORT)
    assert "impossible push_bytes_per_s" in refused(model, damaged(link=Link("cpu:1", value, 1e9)), SHORT)
    if value:
        assert "step_overhead_s" in refused(model, damaged(step_overhead_s=value), SHORT)
        assert "rendezvous_s" in refused(model, msgspec.structs.replace(profile, rendezvous_s=value), SHORT)


@pytest.mark.parametrize("value", [-1, 2**62])
def test_impossible_memory_is_refused(value: int) -> None:
    """Negative memory, and more than solvers can count."""
    assert "free_bytes" in refused(make_model(**TINY), damaged(free_bytes=value), SHORT)
    host = msgspec.structs.replace(make_profile([1.0]).host, memory_bytes=value)
    profile = msgspec.structs.replace(make_profile([1.0]), host=host)
    assert "memory_bytes" in refused(make_model(**TINY), profile, SHORT)


def test_no_devices() -> None:
    """A profile without devices is refused as one, with the command that makes one."""
    empty = msgspec.structs.replace(make_profile([1.0]), devices=())
    assert refused(make_model(), empty, SHORT) == "cannot use the profile: it has no devices; run `tpplan profile`"


def test_two_devices_of_one_name() -> None:
    """Caps and splits could not tell them apart."""
    profile = make_profile([1.0, 0.6])
    twins = tuple(msgspec.structs.replace(d, name="cpu") for d in profile.devices)
    assert "same name" in refused(make_model(**TINY), msgspec.structs.replace(profile, devices=twins), SHORT)


def test_query_heads_by_hand() -> None:
    """A split that sums to the query heads is told apart from a slip: shares by hand are KV heads."""
    said = refused(make_model(), make_profile([1.0, 0.6]), wish(attention_split=(5, 4)))
    assert said == (
        "--attention-split sums to 9, the model has 3 KV heads; shares by hand are whole KV heads, not query heads"
    )


def test_one_layer_and_one_kv_head() -> None:
    """A single KV head is planned for, and by hand only one device can hold it."""
    model = make_model(**TINY | {"layers": 1, "kv_heads": 1})
    profile = make_profile([1.0, 0.9], overhead_s=1e-8, link_s=1e-8)
    plan = solve(model, "m", profile, SHORT)
    check(plan, model, profile)
    by_hand = solve(model, "m", profile, wish(attention_split=(0, 1)))
    assert members(by_hand.layers[0].attention.units) == (1,)


@pytest.mark.parametrize("changes", [{"mlp": 20}, {"mlp": 1}, {"vocab": 3}, {"mlp": 20, "vocab": 100, "layers": 1}])
def test_units_larger_than_the_dimension(changes: dict[str, int]) -> None:
    """A dimension smaller than its unit is one ragged unit that goes to one device."""
    model, profile = make_model(**TINY | changes), make_profile([1.0, 0.6], overhead_s=1e-8, link_s=1e-8)
    plan = solve(model, "m", profile, SHORT)
    check(plan, model, profile)
    whole = plan.layers[0].mlp.units if "mlp" in changes else plan.head
    assert len(members(whole)) == 1


def test_units_larger_than_the_dimension_by_hand() -> None:
    """Such a dimension cannot be cut by hand either; whole it may go to either device."""
    model, profile = make_model(**TINY | {"mlp": 20}), make_profile([1.0, 0.6])
    assert "multiples of 32" in refused(model, profile, wish(mlp_split=(10, 10)))
    plan = solve(model, "m", profile, wish(mlp_split=(0, 20)))
    assert tuple(map(size, plan.layers[0].mlp.units)) == (0, 20)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (wish(caps={"cpu:0": 0}, attention_split=(2, 1)), "cpu:0 (--cap 0) and --attention-split 2,1 cannot both hold"),
        (wish(caps={"cpu:1": 0}, mlp_split=(1504, 32)), "cpu:1 (--cap 0) and --mlp-split 1504,32 cannot both hold"),
        (wish(caps={"cpu:0": 0, "cpu:1": 0}), "cpu:0 (--cap 0) and cpu:1 (--cap 0) cannot hold it together"),
    ],
)
def test_shares_on_a_device_without_room(request_: Request, said: str) -> None:
    """Units by hand for a device capped at 0 contradict that cap, and nothing else is blamed."""
    with pytest.raises(Infeasible) as caught:
        solve(make_model(layers=2, vocab=4096), "m", make_profile([1.0, 0.6]), request_)
    assert f"fits: {said}; it fits with " in str(caught.value)


@pytest.mark.parametrize("layers", [1, 4096])
@pytest.mark.parametrize("width", [2**14, 2**20])
def test_huge_models_end_in_a_plain_answer(layers: int, width: int) -> None:
    """Models up to beyond anything there is: a plan, no fit, no time, or too many weights; never an internal error."""
    shape = {"layers": layers, "hidden": width, "heads": width // 128, "kv_heads": 8, "head_dim": 128, "mlp": 4 * width}
    model = make_model(**shape, vocab=2**20, context=2**20)
    profile = make_profile([1.0, 0.6], free_bytes=2**49, host_bytes=2**50)
    try:
        check(solve(model, "m", profile, wish(time_limit_s=1)), model, profile)
    except (ValueError, Undecided) as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert any(word in str(error) for word in ("fits", "weights are more than", "within"))  # noqa: PT017


@pytest.mark.parametrize("limit_s", [1e-9, 1e-3, 0.05])
def test_no_time_leaves_the_best_known_split(limit_s: float) -> None:
    """However short the limit, a plan comes, no slower than the best baseline; what is not proven is not said to be."""
    model, profile = make_model(layers=8), make_profile([1.0, 0.8, 0.6, 0.4])
    plan = solve(model, "m", profile, wish(time_limit_s=limit_s))
    check(plan, model, profile)
    assert plan.objective_s <= min(b.objective_s for b in plan.baselines.values() if b.feasible)
    assert 0 <= plan.bound_s <= plan.objective_s
    if plan.status != "optimal":
        assert "proven" not in plan.reasons[0]


def test_no_time_and_nothing_that_is_known_to_fit() -> None:
    """Where no rule of thumb fits either, either a split is found or the line says that time was short."""
    profile = make_profile([1.0, 0.6], free_bytes=[300 * MIB, 320 * MIB])
    try:
        check(solve(make_model(), "m", profile, wish(time_limit_s=1e-9)), make_model(), profile)
    except Undecided as error:
        assert "raise --time-limit" in str(error)  # noqa: PT017


def test_devices_that_are_not_used_may_be_as_they_are() -> None:
    """A device with nothing free holds nothing, and the rest is planned."""
    plan = solve(make_model(**TINY), "m", damaged(free_bytes=0), SHORT)
    assert plan.device_use[1].bytes == 0


def test_an_unused_cpu_beside_a_gpu_changes_no_figure() -> None:
    """Prompts are taken in the same chunks whether the CPU is named or not, so the same split is priced alike."""
    model = make_model(**TINY)
    chunks = {
        completed(SHORT, model, load_hardware(machine)).workload.prefill_chunk
        for machine in ("rtx3090", "rtx3090+cpu:ddr5-12ch")
    }
    assert chunks == {GPU_PREFILL_CHUNK}
