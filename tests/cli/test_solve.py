"""`tpplan solve` on a small model and a made-up machine."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tpplan.planner import explain
from tpplan.planner.explanation import Explanation
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


def test_tables_are_for_people(tpplan, box: Path, quick: None) -> None:
    """Without --json split, baselines, reasons and answers are told on stdout, in tables of 80 columns at most."""
    done = tpplan("solve", "model.json", "--explain", "--attention-split", "2,1", "-o", "p.json")
    assert done.code == 0, done.stderr
    for word in ("KV heads", "this plan", "single device", "decode", "the proof covers", "MLP by", "one more device"):
        assert word in done.stdout
    tables = [line for line in done.stdout.splitlines() if not line.startswith(("- ", "proven", "the fastest"))]
    assert max(map(len, tables)) <= 80
    assert done.stderr.strip() == "wrote p.json"


def test_report_is_a_page(tpplan, box: Path) -> None:
    """--report writes one HTML page about the same plan, beside it."""
    done = tpplan("solve", "model.json", "--report", "plan.html")
    assert done.code == 0, done.stderr
    assert done.stderr == "wrote plan.json\nwrote plan.html\n"
    page, plan = (box / "plan.html").read_text(), load_plan(box / "plan.json")
    assert page.startswith("<!DOCTYPE html>")
    assert f"{plan.predicted.decode_tokens_per_s:.1f} tok/s" in page


def test_report_tells_the_explanation(tpplan, box: Path, quick: None) -> None:
    """With --explain the page shows what the terminal shows, below the plan that was printed first."""
    done = tpplan("solve", "model.json", "--report", "plan.html", "--explain")
    assert done.code == 0, done.stderr
    page = (box / "plan.html").read_text()
    for words in ("Who does what", "The best for one phase alone", "Solved anew with one change", "one more device"):
        assert words in page
        assert words in done.stdout
    assert done.stdout.index("this plan") < done.stdout.index("Who does what")


def test_explanations_are_data_too(tpplan, box: Path, quick: None) -> None:
    """`--json --explain` adds one field, which an Explanation reads; without --explain it is not there."""
    told = json.loads(tpplan("solve", "model.json", "--json", "--explain").stdout)
    found = msgspec.convert(told["explanation"], Explanation)
    assert found.plan.objective_s == told["objective_s"]
    assert {use.device for use in found.uses} <= {"cpu:0", "cpu:1"}
    assert {end.phase for end in found.ends} == {"prefill", "decode"}
    assert "explanation" not in json.loads(tpplan("solve", "model.json", "--json").stdout)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Explanations with little time, so that some questions stay open."""
    monkeypatch.setattr(explain, "explain", partial(explain.explain, limit_s=0.5))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--cap", "cpu:0=1MB", "--cap", "cpu:1=1MB"], 3, "cpu:"),
        (["--cap", "cpu:0=0", "--cap", "cpu:1=0"], 3, "cpu:"),
        (["--context", "8192", "--batch", "16777216"], 1, "absurd"),
        (
            ["--cap", "cpu:0=0", "--attention-split", "2,1"],
            3,
            "cpu:0 (--cap 0) and --attention-split 2,1 cannot both hold",
        ),
        (["--attention-split", "5,4"], 1, "whole KV heads, not query heads"),
        (["--mlp-split", "1530,6"], 1, "multiples of 32"),
        (["--dtype", "int4"], 1, "choose --dtype float32 or bfloat16"),
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
        (["--report", "profile.json"], 1, "choose another"),
        (["--report", "./plan.json"], 1, "two files"),
        (["--report", "no/such/plan.html"], 1, "cannot write"),
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
