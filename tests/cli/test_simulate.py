"""`tpplan simulate` and `tpplan solve --trace` on a small model and a made-up machine."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from linked import with_links
from profiles import make_profile

from tpplan.hwprofiles.storage import load_profile, save_profile
from tpplan.planner.storage import load_plan, save_plan


@pytest.fixture
def planned(tpplan, box: Path) -> Path:
    """The box with a plan."""
    assert tpplan("solve", "model.json", "--mlp-split", "1024,512").code == 0
    return box


def test_json_has_everything(tpplan, planned: Path) -> None:
    """Both phases with lengths as the plan promises, seconds of each device, and a critical path that adds up."""
    done = tpplan("simulate", "plan.json", "--json")
    assert (done.code, done.stderr) == (0, "")
    told, plan = json.loads(done.stdout), load_plan(planned / "plan.json")
    decode, prefill = told["phases"]["decode"], told["phases"]["prefill"]
    assert decode["length_s"] == pytest.approx(plan.predicted.decode_s_per_token, rel=1e-9)
    assert prefill["whole_prompt_s"] == pytest.approx(plan.predicted.prefill_s, rel=1e-9)
    assert prefill["rows"] == 256
    for phase in (decode, prefill):
        assert phase["length_s"] == pytest.approx(phase["predicted_s"], rel=1e-9)
        assert [device["name"] for device in phase["devices"]] == ["cpu:0", "cpu:1"]
        for d in phase["devices"]:
            assert sum(d[f"{part}_s"] for part in ("compute", "push", "pull", "wait")) == pytest.approx(
                phase["length_s"]
            )
        assert sum(part["seconds"] for part in phase["critical_path"]) == pytest.approx(phase["length_s"])


def test_tables_are_for_people(tpplan, planned: Path) -> None:
    """Without --json tables, the comparison with the solver, and the critical path; the trace is written and told."""
    done = tpplan("simulate", "--trace", "t.json")
    assert (done.code, done.stderr) == (0, "wrote t.json\n")
    for words in ("One decode step", "One prefill chunk", "as the solver predicts", "critical path: ", "whole prefill"):
        assert words in done.stdout
    names = {event["name"] for event in json.loads((planned / "t.json").read_text())["traceEvents"]}
    assert "layer1.mlp.d1.down_proj" in names


def test_other_hardware_with_the_same_devices(tpplan, planned: Path) -> None:
    """A machine with slow shared links, in another order and with little memory: told on stderr, simulated in order."""
    linked = with_links(make_profile([2.0, 1.0], free_bytes=2**20), [1e9, 1e9], ["a", "a"], {"a": 2e8})
    save_profile(msgspec.structs.replace(linked, devices=linked.devices[::-1]), planned / "other.json")
    done = tpplan("simulate", "plan.json", "--hardware", "other.json")
    assert done.code == 0
    assert "not what the plan was made for" in done.stderr
    assert "too little memory" in done.stderr
    assert "sharing ports and host memory costs" in done.stdout
    assert done.stdout.index("cpu:0") < done.stdout.index("cpu:1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.json"], "tpplan solve"),
        (["profile.json"], "profile, not a plan"),
        (["plan.json", "--hardware", "missing.json"], "tpplan profile"),
        (["plan.json", "--hardware", "three.json"], "no device 'cpu:0'"),
        (["plan.json", "--model", "gone.gguf"], "gone.gguf"),
        (["plan.json", "--model", "other-model.json"], "another model"),
        (["plan.json", "--trace", "plan.json"], "choose another"),
        (["plan.json", "--trace", "no/such/t.json"], "cannot write"),
        (["lying.json"], "layer graph says"),
    ],
)
def test_refusals(tpplan, planned: Path, arguments: list[str], said: str) -> None:
    """Whatever is missing, of another kind, or untrue gives code 1, one line that says so, and nothing else."""
    save_profile(make_profile([2.0, 1.0], kind="cuda"), planned / "three.json")
    model = json.loads((planned / "model.json").read_text())
    (planned / "other-model.json").write_text(json.dumps(model | {"num_hidden_layers": 3}))
    plan = load_plan(planned / "plan.json")
    predicted = msgspec.structs.replace(plan.predicted, decode_s_per_token=plan.predicted.decode_s_per_token / 2)
    save_plan(msgspec.structs.replace(plan, predicted=predicted), planned / "lying.json")
    done = tpplan("simulate", *arguments)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("tpplan: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert load_profile(planned / "profile.json").devices


@pytest.mark.parametrize("there", [True, False])
def test_machines_in_words_are_asked_for_again(tpplan, box: Path, there: bool) -> None:
    """A plan of catalogue cards asks for the --hardware of solve, not for measuring, beside a profile or none."""
    machine = ("--hardware", "2xrtx3060@4.0x8")
    assert tpplan("solve", "model.json", "--time-limit", "1", *machine).code == 0
    if not there:
        (box / "profile.json").unlink()
    done = tpplan("simulate", "plan.json")
    assert (done.code, done.stderr.count("\n")) == (1, 1)
    assert "give the same --hardware as for solve" in done.stderr
    assert "tpplan profile" not in done.stderr
    assert tpplan("simulate", "plan.json", *machine).code == 0


def test_solve_writes_the_same_trace(tpplan, planned: Path) -> None:
    """`solve --trace` writes what `simulate --trace` does, and refuses to write over the plan or what it reads."""
    done = tpplan("solve", "model.json", "--mlp-split", "1024,512", "--trace", "solved.json")
    assert (done.code, done.stderr) == (0, "wrote plan.json\nwrote solved.json\n")
    assert tpplan("simulate", "--trace", "simulated.json").code == 0
    assert (planned / "solved.json").read_bytes() == (planned / "simulated.json").read_bytes()
    for path, said in (("plan.json", "name two files"), ("profile.json", "choose another")):
        done = tpplan("solve", "model.json", "--trace", path)
        assert (done.code, done.stdout) == (1, "")
        assert said in done.stderr
