"""What holds of every plan: random machines, models, workloads and caps, and what check, simulate and baselines say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from linked import with_links
from profiles import make_model, make_profile

from tpplan.hwprofiles.machine import load_hardware
from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner.check import check
from tpplan.planner.errors import Infeasible
from tpplan.planner.memory import device_caps
from tpplan.planner.model_files import load_model
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.neighbours import Neighbourhood
from tpplan.planner.plan import Plan, Workload
from tpplan.planner.request import Request
from tpplan.planner.simulate import pricer_of_plan, simulate, simulated_prefill_s
from tpplan.planner.solve import solve
from tpplan.planner.storage import save_plan
from tpplan.planner.wishes import completed

EQUAL = 1.005 * 1.002  # plans that count as equal, and what the search and the fitting of costs leave open
MIB = 2**20
FEW = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow],
)
FEWER = settings(FEW, max_examples=6)
MACHINES = [
    "rtx3090@4.0x16+rtx3060@4.0x4",
    "rtx3090+rtx4060ti+cpu:ddr5-2ch",
    "2xrtx3090@4.0x8/a+rtx3060@4.0x4/a",
    "rtx5090+p40@3.0x8",
]
MODELS = ["llama-3.1-8b", "llama-3.1-8b-int4", "qwen2.5-7b-int4-actorder", "qwen3-8b-int8"]
WORKS = st.builds(
    Workload, st.sampled_from([1, 100, 900]), st.sampled_from([1, 64, 400]), st.sampled_from([1, 4]), st.just(2048)
)


@dataclass(frozen=True)
class Instance:
    model: ModelSpec
    profile: HardwareProfile
    request: Request

    def solved(self, **changes: Any) -> Plan | None:
        """None where nothing fits, which must be said in one line."""
        try:
            return solve(self.model, "m", self.profile, msgspec.structs.replace(self.request, **changes))
        except Infeasible as error:
            refusal = str(error)
        assert "\n" not in refusal
        return None

    @property
    def shared(self) -> bool:
        return bool(self.profile.host.ports or self.profile.host.bytes_per_s)


@st.composite
def synthetic(draw: st.DrawFn) -> Instance:
    """Small models, two to four devices, links and ports, and caps that bind or do not."""
    count, kv = draw(st.integers(2, 4)), draw(st.sampled_from([1, 2, 4]))
    model = make_model(
        layers=draw(st.integers(1, 6)),
        hidden=draw(st.sampled_from([64, 256])),
        kv_heads=kv,
        heads=kv * draw(st.sampled_from([1, 2, 4])),
        head_dim=32,
        mlp=draw(st.sampled_from([100, 512, 1024])),
        vocab=draw(st.sampled_from([1000, 8192])),
        tied_embeddings=draw(st.booleans()),
    )
    speeds = draw(st.lists(st.sampled_from([1.0, 0.8, 0.5, 0.1]), min_size=count, max_size=count))
    times = {name: 10 ** draw(st.floats(-8, -5.5)) for name in ("overhead_s", "link_s")}
    profile = make_profile(speeds, kind=draw(st.sampled_from(["cpu", "cuda"])), **times)
    if draw(st.booleans()):
        rates = draw(st.lists(st.floats(1e9, 3e10), min_size=count, max_size=count))
        ports = draw(st.lists(st.sampled_from(["", "a"]), min_size=count, max_size=count))
        profile = with_links(profile, rates, ports, {"a": 3e9}, host=draw(st.sampled_from([0.0, 2e10])))
    caps = {d.name: draw(st.integers(4, 40)) * MIB for d in profile.devices if draw(st.booleans())}
    return Instance(model, profile, Request(draw(WORKS), dtype="float32", caps=caps, time_limit_s=60))


@st.composite
def known(draw: st.DrawFn) -> Instance:
    """Well-known models on machines from the catalogue."""
    model, profile = load_model(f"examples/{draw(st.sampled_from(MODELS))}.json"), load_hardware(draw(machines()))
    return Instance(model, profile, Request(draw(WORKS), time_limit_s=60))


def machines() -> st.SearchStrategy[str]:
    return st.sampled_from(MACHINES)


@FEW
@given(synthetic() | known())
def test_every_plan_is_sound(instance: Instance) -> None:
    """It passes check, is no slower than any baseline that fits, and has a gap and a bound that agree."""
    plan = instance.solved()
    if plan is None:
        return
    check(plan, instance.model, instance.profile)
    assert plan.objective_s <= min((b.objective_s for b in plan.baselines.values() if b.objective_s), default=1e9)
    assert 0 <= plan.gap <= 1
    assert plan.bound_s <= plan.objective_s
    assert plan.status in ("optimal", "feasible")


@FEW
@given(synthetic() | known())
def test_plans_last_as_long_as_they_play(instance: Instance) -> None:
    """Played step by step: the predicted time where nothing is shared. Where something is, no longer, but for pushes
    that meet the pulls of a device that pulls alone, as the design says: at most as much as all exchanges take.
    """
    plan = instance.solved()
    if plan is None:
        return
    pricer = pricer_of_plan(plan, instance.model, instance.profile)
    decode = simulate(plan.split, pricer, "decode")
    played = {
        "decode": (decode.length_s, plan.predicted.decode_s_per_token),
        "prefill": (simulated_prefill_s(plan.split, pricer), plan.predicted.prefill_s),
    }
    for played_s, predicted_s in played.values():
        if instance.shared:
            assert played_s <= predicted_s * 1.02
        else:
            assert abs(played_s - predicted_s) <= 1e-9 * predicted_s
    assert decode.length_s >= decode.uncontended_s * (1 - 1e-9)


@FEW
@given(synthetic() | known())
def test_no_neighbour_is_faster(instance: Instance) -> None:
    """A unit moved, a strategy flipped, a device left out, a layer cut like its neighbour: none is faster by more than
    plans that count as equal.
    """
    plan = instance.solved()
    if plan is None:
        return
    request = completed(instance.request, instance.model, instance.profile)
    pricer = pricer_of_plan(plan, instance.model, instance.profile)
    near = Neighbourhood(pricer, request, device_caps(instance.profile, request.caps))
    assert plan.objective_s <= min(map(pricer.split_s, near.every(plan.split)), default=1e9) * EQUAL


@FEWER
@given(synthetic())
def test_the_same_plan_every_time(tmp_path_factory: Any, instance: Instance) -> None:
    """Two solves write the same bytes."""
    folder, plans = tmp_path_factory.mktemp("plans"), [instance.solved(time_limit_s=60) for _ in range(2)]
    for name, plan in zip(("one", "two"), plans):
        if plan is not None:
            save_plan(plan, folder / name)
    written = [path.read_bytes() for path in sorted(folder.iterdir())]
    assert len(written) == 2 * len(set(written))


@FEWER
@given(synthetic() | known(), st.data())
def test_more_of_something_is_never_worse(instance: Instance, data: st.DataObject) -> None:
    """More memory on any device, or a link twice as fast: no plan is slower by more than plans that count as equal."""
    before = instance.solved()
    if before is None:
        return
    d = data.draw(st.integers(0, len(instance.profile.devices) - 1))
    device = instance.profile.devices[d]
    caps = {name: cap * 2 if name == device.name else cap for name, cap in instance.request.caps.items()}
    more = Instance(instance.model, grown(instance.profile, d), msgspec.structs.replace(instance.request, caps=caps))
    after = more.solved()
    assert after is not None
    assert after.objective_s <= before.objective_s * EQUAL
    assert pricer_of_plan(before, more.model, more.profile).split_s(before.split) <= before.objective_s * (1 + 1e-9)


def grown(profile: HardwareProfile, d: int) -> HardwareProfile:
    """Twice the memory of a device and the host, and a link with which its pushes and pulls take half the time."""
    device = profile.devices[d]
    link = device.link and msgspec.structs.replace(
        device.link,
        push_bytes_per_s=2 * device.link.push_bytes_per_s,
        pull_bytes_per_s=2 * device.link.pull_bytes_per_s,
    )
    ops = tuple(
        msgspec.structs.replace(p, alone_s=0.5 * p.alone_s, together_s=0.5 * p.together_s)
        if link and p.op in ("push", "pull")
        else p
        for p in device.ops
    )
    changed = msgspec.structs.replace(device, free_bytes=2 * device.free_bytes, link=link, ops=ops)
    host = msgspec.structs.replace(profile.host, memory_bytes=2 * profile.host.memory_bytes)
    devices = (*profile.devices[:d], changed, *profile.devices[d + 1 :])
    return msgspec.structs.replace(profile, devices=devices, host=host)
