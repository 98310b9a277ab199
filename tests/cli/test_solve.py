"""`tpplan solve` on a small model and a made-up machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tpplan.planner.storage import load_plan

FIELDS = {"status", "objective_s", "bound_s", "gap", "space", "solve_s", "predicted", "baselines", "devices"}
BASELINES = {
    "single_device",
    "layer_split_by_speed",
    "layer_split_by_memory",
    "even",
    "memory_proportional",
    "bandwidth_proportional",
}


def test_json_is_the_contract(tpplan, box: Path) -> None:
    """stdout is one object with every field that scripts rely on; the plan file loads and says the same."""
    done = tpplan("solve", "model.json", "--json")
    assert done.code == 0, done.stderr
    told = json.loads(done.stdout)
    plan = load_plan(box / "plan.json")
    assert told.keys() >= FIELDS
    assert told["baselines"].keys() == BASELINES
    assert told["devices"][0].keys() >= {"name", "attention_units", "mlp_units", "head_units", "bytes", "cap_bytes"}
    assert told["objective_s"] == plan.objective_s
    assert plan.model == str(box / "model.json")


def test_tables_are_for_people(tpplan, box: Path) -> None:
    """Without --json the split, the baselines and the reasons are told on stdout."""
    done = tpplan("solve", "model.json", "--explain", "--attention-split", "2,1", "-o", "p.json")
    assert done.code == 0, done.stderr
    for word in ("KV heads", "this plan", "single device", "decode", "the proof covers"):
        assert word in done.stdout
    assert done.stderr.strip() == "wrote p.json"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--cap", "cpu:0=1MB", "--cap", "cpu:1=1MB"], 3, "cpu:"),
        (["--cap", "cpu:0=0", "--cap", "cpu:1=0"], 3, "cpu:"),
        (["--context", "8192", "--batch", "16777216"], 1, "absurd"),
        (["--time-limit", "nan"], 1, "time limit"),
        (["--cap", "cuda:7=1GB"], 1, "cuda:7"),
        (["--attention-split", "2,2"], 1, "sums to 4"),
        (["--context", "100000"], 1, "8192"),
        (["--hardware", "missing.json"], 1, "tpplan profile"),
        (["--hardware", "model.json"], 1, "tpplan profile"),
        (["--hardware", "rtx3091@4.0x16"], 1, "rtx3090"),
        (["--hardware", "rtx3090+rtx3060", "--cap", "rtx3070=1GB"], 1, "rtx3060"),
        (["-o", "."], 1, "directory"),
        (["-o", "model.json"], 1, "choose another"),
        (["-o", "profile.json"], 1, "choose another"),
        (["-o", "no/such/plan.json"], 1, "cannot write"),
    ],
)
def test_refusals(tpplan, box: Path, arguments: list[str], code: int, said: str) -> None:
    """Each bad wish gives its code, one line that says what to change, and no plan."""
    before = set(box.iterdir())
    done = tpplan("solve", "model.json", *arguments)
    assert (done.code, done.stdout) == (code, "")
    assert done.stderr.startswith("tpplan: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert set(box.iterdir()) == before


def test_a_machine_of_the_catalogue(tpplan, box: Path) -> None:
    """A plan for devices that are not here, by their names, with caps and splits; no profile is needed."""
    (box / "profile.json").unlink()
    machine = "rtx3090@4.0x16+2xrtx3060@4.0x4/a"
    wishes = ("--cap", "rtx3090=100MB", "--mlp-split", "512,512,512", "--time-limit", "5")
    done = tpplan("solve", "model.json", "--hardware", machine, *wishes, "--json")
    assert done.code == 0, done.stderr
    used = json.loads(done.stdout)["devices"]
    assert [device["name"] for device in used] == ["rtx3090", "rtx3060:0", "rtx3060:1"]
    assert all(device["mlp_units"] for device in used)
    assert used[0]["bytes"] <= used[0]["cap_bytes"] == 100_000_000
