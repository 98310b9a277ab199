"""Changed machines differ from the one they come from in what was changed, and in nothing else."""

from __future__ import annotations

import msgspec
import pytest
from profiles import make_profile

from tpplan.hwprofiles.profile import HardwareProfile, Link
from tpplan.hwprofiles.storage import check_profile
from tpplan.planner.changes import with_copy, with_link_rate, with_memory, without_memory_limits
from tpplan.planner.cost import CostModel
from tpplan.planner.memory import device_caps, host_cap
from tpplan.planner.request import Request
from tpplan.planner.steps import Kind, Step

GIB = 2**30


def linked(rate: float, latency_s: float = 5e-6) -> HardwareProfile:
    """Two GPUs whose pushes and pulls take `latency_s` and their bytes over `rate`."""
    profile = make_profile([10.0, 5.0], kind="cuda")
    devices = []
    for device in profile.devices:
        ops = []
        for p in device.ops:
            if p.op in ("push", "pull"):
                seconds = latency_s + 4 * p.rows * p.in_features * max(p.peers, 1) / rate
                p = msgspec.structs.replace(p, alone_s=seconds, together_s=seconds)
            ops.append(p)
        devices.append(msgspec.structs.replace(device, ops=tuple(ops), link=Link(device.name, rate, rate, "root")))
    return msgspec.structs.replace(profile, devices=tuple(devices))


def test_a_wider_link_is_one_measured_at_that_rate() -> None:
    """Doubling the rate gives, within 0.1 %, the times of a machine built with twice the rate; the rest stays."""
    narrow, wide = linked(2e9), linked(4e9)
    changed = with_link_rate(narrow, "cuda:0", 2)
    assert changed.devices[1] == narrow.devices[1]
    assert changed.devices[0].link == wide.devices[0].link
    for kind, peers in ((Kind.PUSH, (0, 1)), (Kind.PULL, (0, 1))):
        for width in (576, 100_000, 2_000_000):
            step = Step("s", kind, 0, 0, "mlp", "r", 1, width, width, peers=peers, combine="sum")
            there, here = (CostModel(p, "float32").step_s(step) for p in (wide, changed))
            assert here == pytest.approx(there, rel=0.001)
    same = [p for p in changed.devices[0].ops if p.op not in ("push", "pull")]
    assert same == [p for p in narrow.devices[0].ops if p.op not in ("push", "pull")]


def test_a_cpu_has_no_link_to_widen() -> None:
    """A device that is its own host memory is refused by name."""
    with pytest.raises(ValueError, match="cpu:0 has no link"):
        with_link_rate(make_profile([1.0]), "cpu:0", 2)


def test_more_memory_moves_one_limit() -> None:
    """A GiB more raises that device's free memory and cap by a GiB, and the host's where it is the CPU's."""
    profile, request = make_profile([1.0, 1.0], host_bytes=8 * GIB), Request(caps={"cpu:0": GIB})
    grown, wish = with_memory(profile, request, "cpu:0", GIB)
    assert device_caps(grown, wish.caps) == (2 * GIB, device_caps(profile, {})[1])
    assert grown.host.memory_bytes == 9 * GIB
    assert grown.devices[1] == profile.devices[1]
    gpus = make_profile([1.0], kind="cuda", host_bytes=8 * GIB)
    assert with_memory(gpus, Request(), "cuda:0", GIB)[0].host == gpus.host


def test_without_limits_every_device_holds_it_all() -> None:
    """Whatever the caps were, each device, and the host for all of them, has the bytes asked for."""
    profile = make_profile([1.0, 1.0], free_bytes=GIB, host_bytes=GIB)
    free, wish = without_memory_limits(profile, Request(caps={"cpu:0": 1}), 10 * GIB)
    assert min(device_caps(free, wish.caps)) >= 10 * GIB
    assert host_cap(free) >= 20 * GIB


@pytest.mark.parametrize(
    ("names", "copied", "new"),
    [
        (["cuda:0", "cuda:1", "cpu"], "cuda:0", "cuda:2"),
        (["cuda:0", "cuda:3"], "cuda:3", "cuda:4"),
        (["rtx3090"], "rtx3090", "rtx3090:1"),
        (["rtx3090", "rtx3090:1", "rtx3060"], "rtx3090", "rtx3090:2"),
        (["cuda:0/16", "cuda:0/32"], "cuda:0/16", "cuda:2"),
    ],
)
def test_a_copy_is_a_sound_device_more(names: list[str], copied: str, new: str) -> None:
    """It is last, has a free name and the figures of the first, and splits by hand and caps go on making sense."""
    profile = make_profile([1.0] * len(names))
    devices = [msgspec.structs.replace(d, name=name) for d, name in zip(profile.devices, names, strict=True)]
    profile = msgspec.structs.replace(profile, devices=tuple(devices))
    share = (3, *[0] * (len(names) - 1))
    grown, wish = with_copy(profile, Request(caps={copied: GIB}, attention_split=share), copied)
    check_profile(grown)
    *others, copy = grown.devices
    assert tuple(others) == profile.devices
    assert (copy.name, copy.ops) == (new, profile.device(copied).ops)
    assert wish.caps == {copied: GIB, new: GIB}
    assert wish.attention_split == (*share, 0)


def test_a_copy_hangs_on_a_port_of_its_own() -> None:
    """Its link is as fast, and shares no port."""
    profile = linked(2e9)
    copy = with_copy(profile, Request(), "cuda:1")[0].devices[-1]
    assert copy.link == Link("cuda:1", 2e9, 2e9, "")
