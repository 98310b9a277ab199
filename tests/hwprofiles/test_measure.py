"""A real measurement of this machine, cut down to a few small probes."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator

import msgspec
import pytest
from small_probes import SIZES, shrink

from tpplan.hwprofiles import exchange
from tpplan.hwprofiles.device_names import available_cores
from tpplan.hwprofiles.measure import measure
from tpplan.hwprofiles.profile import SCHEMA_VERSION, DeviceProfile, HardwareProfile, Host, OpPoint
from tpplan.hwprofiles.storage import check_profile

CORES = available_cores()
PAIR = [f"cpu:{CORES[0]}", f"cpu:{CORES[-1]}"] if len(CORES) > 1 else [f"cpu:{CORES[0]}", "cpu"]
ABSENT = CORES[-1] + 1


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measurement here is a small one."""
    shrink(monkeypatch)


def told(specs: list[str], quick: bool = True) -> tuple[HardwareProfile, list[tuple[str, float]]]:
    """The profile and what was told along the way."""
    messages: list[tuple[str, float]] = []
    return measure(specs, quick, lambda what, share: messages.append((what, share))), messages


def figures(value: object) -> Iterator[float]:
    """Every number in nested dicts and lists."""
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from figures(item)
    elif isinstance(value, float):
        yield value


def points(device: DeviceProfile) -> list[tuple[object, ...]]:
    return [(p.op, p.rows, p.in_features, p.out_features, p.format, p.context, p.peers) for p in device.ops]


@pytest.mark.parametrize("specs", [PAIR, PAIR[:1]])
@pytest.mark.parametrize("quick", [True, False])
def test_a_profile_of_this_machine(specs: list[str], quick: bool) -> None:
    """Devices in the order named, their cores, the same points for each, and only figures that can be true."""
    profile, _ = told(specs, quick)
    check_profile(profile)
    assert profile.schema_version == SCHEMA_VERSION
    assert profile.quick == quick
    assert [d.name for d in profile.devices] == specs
    assert profile.host.cores == os.cpu_count()
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures(msgspec.to_builtins(profile)))
    assert (profile.rendezvous_s > 0) == (len(specs) > 1)
    for device in profile.devices:
        assert set(device.cores) <= set(CORES)
        assert 0 < device.free_bytes == profile.host.memory_bytes
        assert device.read_bytes_per_s_alone > 1e8
        assert device.read_bytes_per_s > 1e8
        assert device.matmul_flops_per_s > 1e8
        assert device.step_overhead_s > 0
        assert all(p.alone_s > 0 and p.together_s > 0 for p in device.ops)
        assert points(device) == points(profile.devices[0])


@pytest.mark.parametrize("specs", [PAIR, PAIR[:1]])
def test_exchange_is_measured_by_size_and_slices(specs: list[str]) -> None:
    """Pushes of every size, and pulls of as many slices as there are devices and of one more."""
    profile, _ = told(specs)
    for device in profile.devices:
        pushes = {(p.in_features, p.peers) for p in device.ops if p.op == "push"}
        pulls = {(p.in_features, p.peers) for p in device.ops if p.op == "pull"}
        assert pushes == {(values, 0) for values in SIZES}
        assert pulls == {(values, len(specs) + extra) for values in SIZES for extra in (0, 1)}


def test_all_cores_are_one_device_unless_named() -> None:
    """Without names the profile has one device of all this process's cores."""
    profile, _ = told([])
    assert [(d.name, d.cores) for d in profile.devices] == [("cpu", CORES)]


def test_progress_only_grows() -> None:
    """Progress is told in words from 0 to 1 and never goes back."""
    _, messages = told(PAIR)
    shares = [share for _, share in messages]
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares == sorted(shares)
    assert all(what for what, _ in messages)


def test_the_fingerprint_covers_every_figure() -> None:
    """A change of any one figure, name or order changes the fingerprint; the same content has the same one."""
    point = OpPoint("linear", 1, 64, 32, 1e-6, 2e-6)
    device = DeviceProfile("cpu:0", "cpu", "", (0,), 2**30, 2e9, 1e9, 1e10, 1e-5, (point,))
    other = msgspec.structs.replace(device, name="cpu:1", cores=(1,))
    profile = HardwareProfile(SCHEMA_VERSION, "0", "", True, Host("", 2, 2**30), 1e-7, (device, other))

    def changed(**changes: object) -> HardwareProfile:
        return msgspec.structs.replace(profile, devices=(msgspec.structs.replace(device, **changes), other))

    fresh = msgspec.json.decode(msgspec.json.encode(profile), type=HardwareProfile)
    variants = [
        changed(name="cpu:7"),
        changed(free_bytes=2**30 + 1),
        changed(read_bytes_per_s=math.nextafter(1e9, 2e9)),
        changed(ops=(msgspec.structs.replace(point, together_s=2.1e-6),)),
        changed(ops=(point, point)),
        msgspec.structs.replace(profile, rendezvous_s=2e-7),
        msgspec.structs.replace(profile, devices=(other, device)),
    ]
    assert fresh.fingerprint == profile.fingerprint
    assert len({v.fingerprint for v in [profile, *variants]}) == 1 + len(variants)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["gpu"], "device 'gpu' is not understood; name CPU devices cpu, cpu:0 or cpu:0-3, GPUs cuda:0"),
        (["cuda:0/0"], "device 'cuda:0/0' is empty"),
        (["cuda:0/8", "cuda:0"], "devices cuda:0/8 and cuda:0 overlap"),
        ([f"cpu:{ABSENT}"], f"device 'cpu:{ABSENT}' is not on this machine: it offers cores"),
        ([PAIR[0], f"cpu:{ABSENT}"], "is not on this machine"),
        ([PAIR[0], PAIR[0]], "a device is named twice; name each once"),
    ],
)
def test_devices_that_cannot_be_measured(specs: list[str], message: str) -> None:
    """Unknown, absent and repeated devices are refused in one line before anything is measured or started."""
    before = threading.active_count()
    with pytest.raises(ValueError, match=message) as error:
        told(specs)
    assert "\n" not in str(error.value)
    assert threading.active_count() == before


def test_no_thread_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads end with the measurement, also when it fails half-way."""
    before = threading.active_count()
    told(PAIR)
    assert threading.active_count() == before

    def broken(*_: object) -> float:
        raise ValueError("two devices could not exchange flags through host memory")

    monkeypatch.setattr(exchange, "rendezvous_s", broken)
    with pytest.raises(ValueError, match="could not exchange flags"):
        told(PAIR)
    assert threading.active_count() == before
