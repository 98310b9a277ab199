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


def applied(request: Request, fix: str) -> Request:
    """The request with one proposal, options read as the command line would."""
    caps, changes = dict(request.caps), dict[str, Any]()
    for name, mib in re.findall(r"--cap (\S+?)=(\d+)MiB", fix):
        caps[name] = int(mib) * MIB
    for field, value in re.findall(r"--(context|batch) (\d+)", fix):
        changes["workload"] = msgspec.structs.replace(request.workload, **{field: int(value)})
    for field in re.findall(r"no --([\w-]+)", fix):
        changes[field.replace("-", "_")] = None
    if "--dtype bfloat16" in fix:
        changes["dtype"] = "bfloat16"
    return msgspec.structs.replace(request, caps=caps, time_limit_s=0.5, **changes)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(SHORT, caps={"cpu:0": 100 * MIB, "cpu:1": 360 * MIB}), ["--cap cpu:0"]),
        (Request(SHORT, caps={"cpu:0": 100 * MIB, "cpu:1": 100 * MIB}), ["--cap cpu:0=", "--cap cpu:1="]),
        (Request(SHORT, caps={"cpu:0": 280 * MIB}, mlp_split=(1536, 0)), ["no --mlp-split", "--cap"]),
        (Request(Workload(64, 64, 1, 8192)), ["--context", "--dtype"]),
        (Request(Workload(64, 64, 8, 2048)), ["--batch", "--context"]),
    ],
)
def test_every_proposal_works(request_: Request, expected: list[str]) -> None:
    """On two devices with 400 MiB free, each proposed change makes the request solvable."""
    profile = make_profile([1.0, 0.6], free_bytes=400 * MIB)
    fixes = advice(profile, request_)
    assert all(word in fixes for word in expected)
    for fix in fixes.removeprefix("it fits with ").split(", or with "):
        solve(MODEL, "m", profile, applied(request_, fix))


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
    """Where nothing of the request helps, the missing memory is named, and with it the model fits."""
    profile = make_profile([1.0, 0.6], free_bytes=50 * MIB, host_bytes=100 * MIB)
    fixes = advice(profile, Request(SHORT, caps={"cpu:1": 40 * MIB}))
    assert "a cap of" not in fixes
    mib, d = re.search(r"(\d+) MiB more memory on cpu:(\d) than it has free and no --cap", fixes).groups()
    free = [50 * MIB, 50 * MIB]
    free[int(d)] += int(mib) * MIB
    solve(MODEL, "m", make_profile([1.0, 0.6], free, host_bytes=(100 + int(mib)) * MIB), Request(SHORT))


def test_changes_that_help_only_together() -> None:
    """Where neither a shorter context nor bfloat16 suffices, both are proposed."""
    profile = make_profile([1.0, 0.6], free_bytes=180 * MIB)
    request = Request(Workload(64, 64, 1, 8192))
    fixes = advice(profile, request)
    assert "--dtype bfloat16 and --context" in fixes
    solve(MODEL, "m", profile, applied(request, fixes))


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
