"""A profile that was saved comes back; one that cannot be true does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import make_profile

from tpplan.hwprofiles.machine import load_hardware
from tpplan.hwprofiles.storage import load_profile, save_profile
from tpplan.hwprofiles.table import profile_tables

Damage = Callable[[dict[str, Any]], object]


def test_round_trip(tmp_path: Path) -> None:
    """Saved and loaded, every figure is the same, and so is the fingerprint."""
    profile = make_profile([2.0, 1.0])
    save_profile(profile, tmp_path / "profile.json")
    loaded = load_profile(tmp_path / "profile.json")
    assert loaded == profile
    assert loaded.fingerprint == profile.fingerprint


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.update(schema_version=99),
        lambda p: p.update(schema_version="1"),
        lambda p: p.pop("host"),
        lambda p: p.update(extra=1),
        lambda p: p.update(devices=[]),
        lambda p: p.update(rendezvous_s=float("nan")),
        lambda p: p.update(rendezvous_s=-1.0),
        lambda p: p["devices"][0].update(read_bytes_per_s=0),
        lambda p: p["devices"][0].update(matmul_flops_per_s=float("inf")),
        lambda p: p["devices"][0].update(free_bytes=10**30),
        lambda p: p["devices"][0].update(name=p["devices"][1]["name"]),
        lambda p: p["devices"][0].update(name="\x1b[2J"),
        lambda p: p["devices"][0]["ops"][0].update(alone_s=0),
        lambda p: p["devices"][0]["ops"][0].update(together_s=1e5),
        lambda p: p["devices"][0]["ops"][0].update(in_features=0),
        lambda p: p["devices"][0]["ops"][0].update(out_features=2**40),
        lambda p: p["devices"][0].update(step_overhead_s=1e9),
        lambda p: p["devices"][0].update(read_bytes_per_s=1e-300),
        lambda p: p["devices"][0].update(read_bytes_per_s=1e30),
        lambda p: p["devices"][0].update(free_bytes=-1),
        lambda p: p["devices"][0].update(link={"name": "x", "push_bytes_per_s": 0.0, "pull_bytes_per_s": 1e9}),
        lambda p: p["host"].update(memory_bytes=-1),
        lambda p: p["host"].update(bytes_per_s=-1.0),
        lambda p: p["host"].update(ports=[{"name": "x", "push_bytes_per_s": 1e9, "pull_bytes_per_s": 0.0}]),
        lambda p: p.update(layers=[]),
        lambda p: p["devices"][0]["ops"][0].update(op="teleport"),
    ],
)
def test_impossible_profiles(tmp_path: Path, damage: Damage) -> None:
    """Another version, wrong types, and figures that cannot be: one line with the file and the fix."""
    path = tmp_path / "profile.json"
    save_profile(make_profile([2.0, 1.0]), path)
    stored = json.loads(path.read_text())
    damage(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="run `tpplan profile`") as refused:
        load_profile(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: p["host"].update(bytes_per_s=0.5), "host memory"),
        (lambda p: p["host"]["ports"][0].update(pull_bytes_per_s=0), "port a"),
        (lambda p: p["host"]["ports"][0].update(name=""), "port name"),
        (lambda p: p["host"]["ports"].append(p["host"]["ports"][0]), "same name"),
        (lambda p: p["host"].update(ports=[]), "rtx3060"),
        (lambda p: p["devices"][1]["link"].update(port="b"), "'b'"),
        (lambda p: p["devices"][0]["link"].update(push_bytes_per_s=0), "rtx3090"),
        (lambda p: p["devices"][0]["link"].update(pull_bytes_per_s=-1.0), "pull_bytes_per_s"),
        (lambda p: p["devices"][0]["link"].update(pull_bytes_per_s=1e300), "pull_bytes_per_s"),
        (lambda p: p["devices"][0]["link"].update(name="\n"), "link name"),
    ],
)
def test_impossible_links(tmp_path: Path, damage: Damage, said: str) -> None:
    """Links and ports that move nothing, ports that are not there or there twice: one line that names them."""
    path = tmp_path / "profile.json"
    save_profile(load_hardware("rtx3090@4.0x16+rtx3060@4.0x4/a"), path)
    stored = json.loads(path.read_text())
    damage(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"^[^\n]*run `tpplan profile`$") as refused:
        load_profile(path)
    assert said in str(refused.value)


@given(st.binary() | st.sampled_from([b"[" * 10**6, b'{"a":' * 10**6]))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """No content breaks the reader."""
    path = tmp_path_factory.mktemp("any") / "profile.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="run `tpplan profile`"):
        load_profile(path)


def test_tables_show_every_device() -> None:
    """The table for people has a row for each device and a unit in each figure."""
    devices, exchanges = profile_tables(make_profile([2.0, 1.0]))
    assert [row[0] for row in devices[2]] == [row[0] for row in exchanges[2]] == ["cpu:0", "cpu:1"]
    assert "GB/s" in devices[2][0][3]


def test_tables_show_links_and_ports() -> None:
    """Where devices have links, a table tells them, and what the port that two of them share lets through."""
    _, links, _ = profile_tables(load_hardware("rtx3090@4.0x16+2xrtx3060@4.0x8/a+cpu:ddr5-2ch"))
    assert [row[0] for row in links[2]] == ["rtx3090", "rtx3060:0", "rtx3060:1"]
    assert links[2][0] == ("rtx3090", "4.0x16", "26.7 GB/s", "25.2 GB/s", "-", "-", "-")
    assert links[2][1][1:] == ("4.0x8", "12.9 GB/s", "12.9 GB/s", "a", "6.4 GB/s", "6.4 GB/s")
