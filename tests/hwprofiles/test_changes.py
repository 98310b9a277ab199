"""Changed machines are what the catalogue would build, and every change that makes no sense says why."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from profiles import make_profile

from tpplan.hwprofiles.catalogue_files import known_links
from tpplan.hwprofiles.changes import (
    link_ladder,
    with_all_links,
    with_device,
    with_link,
    with_machine,
    without_device,
)
from tpplan.hwprofiles.machine import load_hardware
from tpplan.hwprofiles.profile import HardwareProfile, Link
from tpplan.hwprofiles.storage import check_profile


def names(profile: HardwareProfile) -> list[str]:
    check_profile(profile)
    return [device.name for device in profile.devices]


def figures(profile: HardwareProfile) -> list[object]:
    return [msgspec.structs.replace(device, name="") for device in profile.devices]


def test_added_devices_are_those_of_the_machine_built_at_once() -> None:
    """Adding cards one by one gives the devices of the machine that names them all."""
    grown = with_machine(with_machine(load_hardware("rtx3090@4.0x16"), "rtx3060@4.0x4"), "2xp40@3.0x8/a")
    assert figures(grown) == figures(load_hardware("rtx3090@4.0x16+rtx3060@4.0x4+2xp40@3.0x8/a"))
    assert names(grown) == ["rtx3090", "rtx3060", "p40:0", "p40:1"]
    assert grown.host.ports == load_hardware("2xp40@3.0x8/a").host.ports


@pytest.mark.parametrize(
    ("machine", "more", "found"),
    [
        ("rtx3090", "rtx3090", ["rtx3090", "rtx3090:1"]),
        ("2xrtx3090", "rtx3090", ["rtx3090:0", "rtx3090:1", "rtx3090:2"]),
        ("rtx3090", "2xrtx3090", ["rtx3090", "rtx3090:1", "rtx3090:2"]),
        ("2xrtx3090", "2xrtx3090", ["rtx3090:0", "rtx3090:1", "rtx3090:2", "rtx3090:3"]),
        ("rtx3090", "rtx3060", ["rtx3090", "rtx3060"]),
        ("rtx3090", "cpu:ddr5-2ch", ["rtx3090", "cpu"]),
    ],
)
def test_names_stay_unique(machine: str, more: str, found: list[str]) -> None:
    """Devices that are there keep their names; a new one takes the next number of its model."""
    assert names(with_machine(load_hardware(machine), more)) == found


def test_names_beside_measured_ones() -> None:
    """A measured machine keeps its names, too."""
    measured = make_profile([1.0, 1.0], kind="cuda")
    assert names(with_machine(measured, "rtx3060@4.0x4")) == ["cuda:0", "cuda:1", "rtx3060"]
    assert names(with_device(measured, measured.devices[1])) == ["cuda:0", "cuda:1", "cuda:2"]


def test_a_cpu_brings_its_memory() -> None:
    """A CPU as a device may use the memory that it was named with; a second one is refused."""
    grown = with_machine(load_hardware("rtx3090"), "cpu:ddr5-2ch:48GiB")
    assert grown.host.memory_bytes == load_hardware("cpu:ddr5-2ch:48GiB").host.memory_bytes
    for again in (grown, make_profile([1.0])):
        with pytest.raises(ValueError, match="already"):
            with_machine(again, "cpu:ddr5-2ch")


def test_removed_devices() -> None:
    """The others stay as they are; the last one cannot go, nor one that is not there."""
    left = without_device(load_hardware("rtx3090+rtx3060+p40"), "rtx3060")
    assert figures(left) == figures(load_hardware("rtx3090+p40"))
    with pytest.raises(ValueError, match="rtx3090, p40"):
        without_device(left, "rtx3060")
    with pytest.raises(ValueError, match="only device"):
        without_device(load_hardware("p40"), "p40")


@pytest.mark.parametrize("link", ["3.0x1", "4.0x4", "4.0x8", "oculink"])
def test_a_card_in_another_slot_is_the_card_built_so(link: str) -> None:
    """A link changed afterwards equals the machine named with it at once, shared port included."""
    changed = with_link(load_hardware("rtx3090@4.0x16+rtx3060@4.0x4/a"), "rtx3060", link)
    assert figures(changed) == figures(load_hardware(f"rtx3090@4.0x16+rtx3060@{link}/a"))
    assert names(changed) == ["rtx3090", "rtx3060"]


def test_no_card_does_more_than_its_connector() -> None:
    """A 4060 Ti has eight lanes, whatever the slot."""
    assert figures(with_link(load_hardware("rtx4060ti@4.0x4"), "rtx4060ti", "5.0x16")) == figures(
        load_hardware("rtx4060ti@4.0x8")
    )


def test_measured_exchanges_follow_the_rates() -> None:
    """Figures that are a fixed time plus bytes at the link's rate become the fixed time plus bytes at the new rate."""
    measured = make_profile([1.0, 1.0], kind="cuda", link_s=5e-6)
    rate = 10e9  # what make_profile lets a device of speed 1.0 move
    devices = [msgspec.structs.replace(d, link=Link("old", rate, rate)) for d in measured.devices]
    measured = msgspec.structs.replace(measured, devices=tuple(devices))
    new = known_links()["3.0x4"]
    changed = with_link(measured, "cuda:1", "3.0x4")
    assert changed.devices[0] == measured.devices[0]
    for before, after in zip(measured.devices[1].ops, changed.devices[1].ops, strict=True):
        if before.op not in ("push", "pull"):
            assert after == before
            continue
        wire = new.push_bytes_per_s if before.op == "push" else new.pull_bytes_per_s
        moved = 4 * before.in_features * max(1, before.peers)
        assert after.together_s == pytest.approx(5e-6 + moved / wire.value, rel=1e-6)
    check_profile(changed)
    faster = with_link(changed, "cuda:1", "5.0x16")
    assert all(min(p.alone_s, p.together_s) > 0 for p in faster.devices[1].ops)


def test_links_that_cannot_be() -> None:
    """Unknown links, unknown devices and devices without a link are told apart."""
    machine = load_hardware("rtx3090+cpu:ddr5-2ch")
    for name, link, said in (
        ("rtx3090", "4.0x5", "did you mean"),
        ("rtx309", "4.0x8", "no device"),
        ("cpu", "4.0x8", "own memory"),
    ):
        with pytest.raises(ValueError, match=said):
            with_link(machine, name, link)
    with pytest.raises(ValueError, match="no device of this machine has a link"):
        with_all_links(make_profile([1.0, 1.0]), "4.0x8")


def test_the_ladder_rises() -> None:
    """The links of a sweep are known ones, each clearly faster than the one before."""
    rates = [known_links()[name].push_bytes_per_s.value for name in link_ladder()]
    assert len(rates) >= 5
    assert all(b >= 1.5 * a for a, b in pairwise(rates))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("rtx9999", "did you mean"),
        ("", "name some"),
        ("missing.json", "missing.json"),
        ("17xp40", "1 to 16"),
        ("p40/a=3.0x4", "port"),
    ],
)
def test_machines_that_cannot_be_added(more: str, said: str) -> None:
    """Unknown devices, files that are not there, too many, and a port with two links."""
    with pytest.raises((ValueError, OSError), match=said):
        with_machine(load_hardware("rtx3090/a=4.0x4"), more)


def test_sixteen_devices_at_most() -> None:
    """Adding ends where the planner does."""
    with pytest.raises(ValueError, match="more than 16"):
        with_machine(load_hardware("10xp40"), "7xrtx3090")


def test_an_added_cpu_brings_its_memory() -> None:
    """The machine with a CPU added is the machine that is named with it: size and bandwidth of host memory."""
    added, named = with_machine(load_hardware("2xrtx3090"), "cpu:ddr4-2ch"), load_hardware("2xrtx3090+cpu:ddr4-2ch")
    assert (added.host.memory_bytes, added.host.bytes_per_s) == (named.host.memory_bytes, named.host.bytes_per_s)
