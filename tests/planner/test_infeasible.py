"""The advice that comes with "nothing fits": applied as it stands, it works."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from profiles import make_model, make_profile

from tpplan.hwprofiles.profile import HardwareProfile
from tpplan.planner import infeasible
from tpplan.planner.errors import Infeasible, Undecided
from tpplan.planner.guarded_solver import Answer
from tpplan.planner.plan import Workload
from tpplan.planner.request import Request
from tpplan.planner.solve import solve

MIB = 2**20
MODEL = make_model()
SHORT = Workload(prompt_tokens=64, new_tokens=64, context=2048)


def advice(profile: HardwareProfile, request: Request) -> str:
    """What the refusal proposes."""
    with pytest.raises(Infeasible, match="no split of this model") as caught:
        solve(MODEL, "m", profile, request)
    return str(caught.value).split("; ", 1)[1]


def applied(profile: HardwareProfile, request: Request, fix: str) -> tuple[HardwareProfile, Request]:
    """Machine and request with one proposal, options read as the command line would."""
    caps, changes = dict(request.caps), dict[str, Any]()
    for mib, device in re.findall(r"(\d+) MiB more memory on (\S+) than it has free", fix):
        profile = grown(profile, device, int(mib) * MIB)
    for device in re.findall(r"no --cap (\S+)", fix):
        del caps[device]
    for name, mib in re.findall(r"--cap (\S+?)=(\d+)MiB", fix):
        caps[name] = int(mib) * MIB
    for field, value in re.findall(r"--(context|batch) (\d+)", fix):
        changes["workload"] = msgspec.structs.replace(request.workload, **{field: int(value)})
    for field in re.findall(r"no --([\w-]+)", fix):
        changes |= {} if field == "cap" else {field.replace("-", "_"): None}
    for field, value in re.findall(r"--(dtype|cache-dtype) (\w+)", fix):
        changes[field.replace("-", "_")] = value
    return profile, msgspec.structs.replace(request, caps=caps, time_limit_s=0.5, **changes)


def grown(profile: HardwareProfile, name: str, extra_bytes: int) -> HardwareProfile:
    """More memory on a CPU device, so in its host."""
    devices = [
        msgspec.structs.replace(d, free_bytes=d.free_bytes + extra_bytes * (d.name == name)) for d in profile.devices
    ]
    host = msgspec.structs.replace(profile.host, memory_bytes=profile.host.memory_bytes + extra_bytes)
    return msgspec.structs.replace(profile, devices=tuple(devices), host=host)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(SHORT, caps={"cpu:0": 100 * MIB, "cpu:1": 360 * MIB}), ["--cap cpu:0"]),
        (Request(SHORT, caps={"cpu:0": 100 * MIB, "cpu:1": 100 * MIB}), ["--cap cpu:0=", "--cap cpu:1="]),
        (Request(SHORT, caps={"cpu:0": 280 * MIB}, mlp_split=(1536, 0)), ["no --mlp-split", "--cap"]),
        (Request(Workload(64, 64, 1, 8192)), ["--context", "--dtype", "--cache-dtype bfloat16"]),
        (Request(Workload(64, 64, 8, 2048)), ["--batch", "--context"]),
    ],
)
def test_every_proposal_works(request_: Request, expected: list[str]) -> None:
    """On two devices with 400 MiB free, each proposed change makes the request solvable."""
    profile = make_profile([1.0, 0.6], free_bytes=400 * MIB)
    fixes = advice(profile, request_)
    assert all(word in fixes for word in expected)
    for fix in fixes.removeprefix("it fits with ").split(", or with "):
        solve(MODEL, "m", *applied(profile, request_, fix))


def test_context_and_caps_are_the_least_change() -> None:
    """One token more than the proposed context, or a MiB less than the proposed caps, does not fit."""
    profile = make_profile([1.0, 0.6], free_bytes=400 * MIB)
    request = Request(Workload(64, 64, 1, 8192), caps={"cpu:0": 350 * MIB})
    context = int(re.search(r"--context (\d+)", advice(profile, request))[1])
    advice(profile, msgspec.structs.replace(request, workload=Workload(64, 64, 1, context + 1)))
    request = Request(SHORT, caps={"cpu:0": 100 * MIB})
    mib = int(re.search(r"--cap cpu:0=(\d+)MiB", advice(profile, request))[1])
    advice(profile, msgspec.structs.replace(request, caps={"cpu:0": (mib - 1) * MIB}))


def test_memory_beyond_the_machine_is_no_cap() -> None:
    """Where nothing of the request helps, the missing memory is named, to a hundredth, and with it the model fits."""
    profile, request = make_profile([1.0, 0.6], free_bytes=50 * MIB, host_bytes=100 * MIB), Request(SHORT)
    request = msgspec.structs.replace(request, caps={"cpu:1": 40 * MIB})
    fixes = advice(profile, request)
    assert "--cap cpu:1=" not in fixes
    solve(MODEL, "m", *applied(profile, request, fixes))
    mib = re.search(r"(\d+) MiB more", fixes)[1]
    advice(*applied(profile, request, fixes.replace(mib, str(int(int(mib) * 0.98)))))


def test_changes_that_help_only_together() -> None:
    """Where neither a shorter context nor bfloat16 suffices, both are proposed."""
    profile = make_profile([1.0, 0.6], free_bytes=180 * MIB)
    request = Request(Workload(64, 64, 1, 8192))
    fixes = advice(profile, request)
    assert "--dtype bfloat16 and --context" in fixes
    solve(MODEL, "m", *applied(profile, request, fixes.split(", or with ")[0]))


def test_shared_host_memory_is_named_where_it_binds() -> None:
    """Two devices that each could hold the model, in a host that cannot: the host's limit is in the message."""
    profile = make_profile([1.0, 0.6], free_bytes=2**30, host_bytes=400 * MIB)
    with pytest.raises(Infeasible, match="all CPU devices together 380 MiB of host memory"):
        solve(MODEL, "m", profile, Request(SHORT))


@pytest.mark.parametrize("status", ["UNKNOWN", "CRASHED"])
def test_too_little_time_is_not_infeasible(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    """A search that ended without an answer says that, not that nothing fits."""
    monkeypatch.setattr(infeasible, "solve_model", lambda *arguments: Answer(status))
    with pytest.raises(Undecided, match="nor a proof"):
        solve(MODEL, "m", make_profile([1.0, 0.6], free_bytes=10 * MIB), Request(SHORT))


def test_number_formats_are_proposed_only_where_they_were_measured() -> None:
    """A profile without int8 figures: int8 would fit, and is not among the proposals."""
    profile = make_profile([1.0, 0.6], free_bytes=150 * MIB)
    assert "int" not in advice(profile, Request(Workload(64, 64, 1, 8192)))


def test_one_more_device() -> None:
    """Three GPUs hold what two cannot, however short the request: one more is proposed, and it fits then."""
    work = Workload(64, 64, 1, 128)
    fixes = advice(make_profile([1.0, 0.6], free_bytes=130 * MIB, kind="cuda"), Request(work))
    assert fixes.endswith(" than it has free, or with one more device like cuda:0")
    solve(MODEL, "m", make_profile([1.0, 0.6, 1.0], free_bytes=130 * MIB, kind="cuda"), Request(work, time_limit_s=0.5))
